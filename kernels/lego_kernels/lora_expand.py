"""The second half of many adapters' products in one ragged batch, added to the layer's own output."""

from collections.abc import Callable

import torch

from lego_kernels.checks import check_tensor
from lego_kernels.low_rank import Factors, Segments, check_low_rank

Add = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None]


def add_product(out: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> None:
    """``out += x @ weight.T``, in one pass."""
    out.addmm_(x, weight.T)


def lora_expand(
    out: torch.Tensor, hidden: torch.Tensor, up: Factors, segments: Segments, *, add: Add = add_product
) -> torch.Tensor:
    """``out[row] += hidden[row, column : column + rank] @ up[which].T`` for the rows of each segment, in place.

    Takes out (T, N), hidden (T, H) and weights (N, rank), all of one dtype; returns out.  Rows of out and hidden
    may lie apart in memory, so that out can be the columns of one of several layers that were computed as one.
    ``add`` computes one segment on a CPU.

    Raises ValueError, naming the argument and the shapes, where a shape, dtype or device does not fit.
    """
    check_low_rank("out", out, up, segments)
    check_tensor("hidden", hidden, (out.shape[0], *hidden.shape[1:]), out.dtype, out.device)
    if hidden.ndim != 2 or hidden.shape[1] < up.hidden:
        raise ValueError(f"hidden has shape {list(hidden.shape)}, must be [T, H] with H >= {up.hidden}")
    if up.weights and out.shape[1] != up.side:
        raise ValueError(f"out has shape {list(out.shape)}, must be [T, {up.side}]")
    if out.is_cuda:
        from lego_kernels.triton_kernels.lora_expand import lora_expand_triton

        return lora_expand_triton(out, hidden, up, segments)
    for start, stop, which in segments.rows:
        if stop > start:
            column, rank = up.columns[which], up.ranks[which]
            add(out[start:stop], hidden[start:stop, column : column + rank], up.weights[which])
    return out
