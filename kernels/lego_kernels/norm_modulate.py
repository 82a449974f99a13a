"""Layer norm and adaptive modulation in one pass."""

import torch
from torch.nn import functional as F

from lego_kernels.checks import check_rows


def norm_modulate(
    x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor, branch: torch.Tensor, *, eps: float = 1e-6
) -> torch.Tensor:
    """``layer_norm(x) * (1 + scale[branch]) + shift[branch]``: each row normed and modulated by its own branch.

    Takes x (T, D), shift and scale (B, D) of the same dtype, branch (T,) of int64; returns (T, D).
    Rows may lie apart in memory.  A row's result depends on that row and its branch alone.

    Raises ValueError, naming the argument and the shapes, where a rank, shape, dtype or device does not fit.
    Branches must lie in 0..B-1: a CPU raises IndexError otherwise, a GPU is not made to look.
    """
    check_rows(x, branch, ("shift", shift), ("scale", scale))
    if x.is_cuda:
        from lego_kernels.triton_kernels.norm_modulate import norm_modulate_triton

        return norm_modulate_triton(x, shift, scale, branch, eps=eps)
    normed = F.layer_norm(x, x.shape[-1:], eps=eps)
    return torch.addcmul(shift.index_select(0, branch), normed, (1 + scale).index_select(0, branch))
