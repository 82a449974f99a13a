"""The kernel of lora_shrink: one program a tile of a segment's rows, over all columns of x and all ranks.

x is read once.  Tiles do not depend on what else is in the batch, so that a row's sums are taken in one order.
"""

import torch
import triton
import triton.language as tl

from lego_kernels.launching import device_of, power_of_two, unit_columns
from lego_kernels.low_rank import Factors, Segments

ROWS, COLUMNS, MIN_RANKS = 32, 64, 16  # tl.dot wants 16 on every side


@triton.jit
def _kernel(
    x: tl.tensor, hidden: tl.tensor, factors: tl.tensor, segments: tl.tensor,
    x_stride: tl.tensor, hidden_stride: tl.tensor, width: tl.tensor,
    block_rows: tl.constexpr, block_columns: tl.constexpr, block_ranks: tl.constexpr, tiles: tl.constexpr,
) -> None:  # fmt: skip
    segment = tl.program_id(0)
    start = tl.load(segments + 3 * segment)
    stop = tl.load(segments + 3 * segment + 1)
    which = tl.load(segments + 3 * segment + 2)
    first = start + tl.program_id(1) * block_rows
    if first < stop:
        weight = tl.load(factors + 3 * which).to(tl.pointer_type(x.dtype.element_ty))
        rank = tl.load(factors + 3 * which + 1)
        rows = first + tl.arange(0, block_rows)
        ranks = tl.arange(0, block_ranks)
        has_row, has_rank = (rows < stop)[:, None], (ranks < rank)[:, None]
        total = tl.zeros((block_rows, block_ranks), dtype=tl.float32)
        for tile in range(tiles):  # known when compiled: a model has few widths
            columns = tile * block_columns + tl.arange(0, block_columns)
            inside = (columns < width)[None, :]
            values = tl.load(x + rows[:, None] * x_stride + columns[None, :], mask=has_row & inside, other=0.0)
            factor = tl.load(weight + ranks[:, None] * width + columns[None, :], mask=has_rank & inside, other=0.0)
            total = tl.dot(values, tl.trans(factor), total, input_precision="ieee")
        places = hidden + rows[:, None] * hidden_stride + ranks[None, :]
        tl.store(places, total.to(hidden.dtype.element_ty), mask=has_row & (ranks < rank)[None, :])


def lora_shrink_triton(x: torch.Tensor, down: Factors, segments: Segments) -> torch.Tensor:
    """Launch the kernel on arguments that lora_shrink has checked."""
    hidden = x.new_zeros(x.shape[0], down.hidden)
    if not segments.longest:
        return hidden
    x = unit_columns(x)
    grid = (len(segments.rows), triton.cdiv(segments.longest, ROWS))
    with device_of(x):
        _kernel[grid](
            x, hidden, down.table(x.device), segments.table(x.device), x.stride(0), hidden.stride(0), x.shape[1],
            ROWS, COLUMNS, max(power_of_two(down.widest), MIN_RANKS), triton.cdiv(x.shape[1], COLUMNS),
        )  # fmt: skip
    return hidden
