"""A block's update added to the residual stream, and the sum normed and modulated for the next layer, in one pass."""

import torch
from torch.nn import functional as F

from lego_kernels.checks import check_rows, check_tensor


def residual_norm_modulate(
    x: torch.Tensor,
    update: torch.Tensor,
    gate: torch.Tensor,
    shift: torch.Tensor,
    scale: torch.Tensor,
    branch: torch.Tensor,
    *,
    eps: float = 1e-6,
) -> torch.Tensor:
    """Return ``y = x + gate[branch] * update`` and ``layer_norm(y) * (1 + scale[branch]) + shift[branch]``, stacked.

    Takes x and update (T, D), gate, shift and scale (B, D), all of one dtype, branch (T,) of int64; returns (2, T, D).
    What is normed is y as it is rounded, so that the bits are those of gated_residual and norm_modulate after another.
    Rows may lie apart in memory.

    Raises ValueError, naming the argument and the shapes, where a rank, shape, dtype or device does not fit.
    Branches must lie in 0..B-1: a CPU raises IndexError otherwise, a GPU is not made to look.
    """
    check_rows(x, branch, ("gate", gate), ("shift", shift), ("scale", scale))
    check_tensor("update", update, x.shape, x.dtype, x.device)
    if x.is_cuda:
        from lego_kernels.triton_kernels.residual_norm_modulate import residual_norm_modulate_triton

        return residual_norm_modulate_triton(x, update, gate, shift, scale, branch, eps=eps)
    out = x.new_empty(2, *x.shape)
    torch.addcmul(x, gate.index_select(0, branch), update, out=out[0])
    normed = F.layer_norm(out[0], x.shape[-1:], eps=eps)
    torch.addcmul(shift.index_select(0, branch), normed, (1 + scale).index_select(0, branch), out=out[1])
    return out
