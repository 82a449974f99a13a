"""The first half of many adapters' products in one ragged batch: each row to a few hidden values."""

from collections.abc import Callable

import torch
from torch.nn import functional as F

from lego_kernels.low_rank import Factors, Segments, check_low_rank

Product = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def lora_shrink(x: torch.Tensor, down: Factors, segments: Segments, *, product: Product = F.linear) -> torch.Tensor:
    """``h[row] = x[row] @ down[which].T`` for the rows of each segment, zero elsewhere.

    Takes x (T, D) and weights (rank, D) of its dtype; returns (T, hidden), where hidden is the largest rank:
    a row's hidden values stand first and zeros follow.  Rows of x may lie apart in memory.  A row's result
    depends on that row and its factors alone where ``product``, which multiplies on a CPU, guarantees that.

    Raises ValueError, naming the argument and the shapes, where a shape, dtype or device does not fit.
    """
    check_low_rank("x", x, down, segments)
    if down.weights and x.shape[1] != down.side:
        raise ValueError(f"x has shape {list(x.shape)}, must be [T, {down.side}]")
    if x.is_cuda:
        from lego_kernels.triton_kernels.lora_shrink import lora_shrink_triton

        return lora_shrink_triton(x, down, segments)
    hidden = x.new_zeros(x.shape[0], down.hidden)
    for start, stop, which in segments.rows:
        if stop > start:
            hidden[start:stop, : down.ranks[which]] = product(x[start:stop], down.weights[which])
    return hidden
