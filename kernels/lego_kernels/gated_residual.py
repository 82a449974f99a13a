"""A block's update added to the residual stream, gated by branch."""

import torch

from lego_kernels.checks import check_rows, check_tensor


def gated_residual(x: torch.Tensor, update: torch.Tensor, gate: torch.Tensor, branch: torch.Tensor) -> torch.Tensor:
    """``x + gate[branch] * update``: the residual stream after a block, a new tensor.

    Takes x and update (T, D), gate (B, D), all of one dtype, branch (T,) of int64; returns (T, D).
    Rows may lie apart in memory.

    Raises ValueError, naming the argument and the shapes, where a rank, shape, dtype or device does not fit.
    Branches must lie in 0..B-1: a CPU raises IndexError otherwise, a GPU is not made to look.
    """
    check_rows(x, branch, ("gate", gate))
    check_tensor("update", update, x.shape, x.dtype, x.device)
    if x.is_cuda:
        from lego_kernels.triton_kernels.gated_residual import gated_residual_triton

        return gated_residual_triton(x, update, gate, branch)
    return torch.addcmul(x, gate.index_select(0, branch), update)
