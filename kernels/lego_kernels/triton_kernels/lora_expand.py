"""The kernel of lora_expand: one program a tile of a segment's rows and of the layer's outputs.

Per row of N values it moves 2 N values of out; hidden values and weights stay in the caches.
"""

import torch
import triton
import triton.language as tl

from lego_kernels.launching import device_of
from lego_kernels.low_rank import Factors, Segments

ROWS, COLUMNS, RANKS = 32, 64, 16  # tl.dot wants 16 on every side


@triton.jit
def _kernel(
    out: tl.tensor, hidden: tl.tensor, factors: tl.tensor, segments: tl.tensor,
    out_stride: tl.tensor, out_column_stride: tl.tensor, hidden_stride: tl.tensor, hidden_column_stride: tl.tensor,
    width: tl.tensor,
    block_rows: tl.constexpr, block_columns: tl.constexpr, block_ranks: tl.constexpr, tiles: tl.constexpr,
) -> None:  # fmt: skip
    segment = tl.program_id(0)
    start = tl.load(segments + 3 * segment)
    stop = tl.load(segments + 3 * segment + 1)
    which = tl.load(segments + 3 * segment + 2)
    first = start + tl.program_id(1) * block_rows
    if first < stop:
        weight = tl.load(factors + 3 * which).to(tl.pointer_type(out.dtype.element_ty))
        rank = tl.load(factors + 3 * which + 1)
        column = tl.load(factors + 3 * which + 2)
        rows = first + tl.arange(0, block_rows)
        columns = tl.program_id(2) * block_columns + tl.arange(0, block_columns)
        has_row, has_column = (rows < stop)[:, None], columns < width
        total = tl.zeros((block_rows, block_columns), dtype=tl.float32)
        for tile in range(tiles):  # tiles beyond a segment's own rank add zeros, which change no bits
            ranks = tile * block_ranks + tl.arange(0, block_ranks)
            inside = (ranks < rank)[None, :]
            places = hidden + rows[:, None] * hidden_stride + (column + ranks)[None, :] * hidden_column_stride
            values = tl.load(places, mask=has_row & inside, other=0.0)
            factor = tl.load(
                weight + columns[:, None] * rank + ranks[None, :], mask=has_column[:, None] & inside, other=0.0
            )
            total = tl.dot(values, tl.trans(factor), total, input_precision="ieee")
        places = out + rows[:, None] * out_stride + columns[None, :] * out_column_stride
        mask = has_row & has_column[None, :]
        before = tl.load(places, mask=mask, other=0.0).to(tl.float32)
        tl.store(places, (before + total).to(out.dtype.element_ty), mask=mask)


def lora_expand_triton(out: torch.Tensor, hidden: torch.Tensor, up: Factors, segments: Segments) -> torch.Tensor:
    """Launch the kernel on arguments that lora_expand has checked."""
    if not segments.longest:
        return out
    grid = (len(segments.rows), triton.cdiv(segments.longest, ROWS), triton.cdiv(out.shape[1], COLUMNS))
    with device_of(out):
        _kernel[grid](
            out, hidden, up.table(out.device), segments.table(out.device), *out.stride(), *hidden.stride(),
            out.shape[1], ROWS, COLUMNS, RANKS, triton.cdiv(up.widest, RANKS),
        )  # fmt: skip
    return out
