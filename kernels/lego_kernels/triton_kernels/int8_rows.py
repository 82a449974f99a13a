"""The kernel of int8_rows: x is read once and its codes written once, one program a row.

Per row of D values it moves D values and D bytes.
"""

import torch
import triton
import triton.language as tl

from lego_kernels.launching import block_of, device_of, unit_columns, warps_of

LARGEST, SMALLEST = tl.constexpr(127.0), tl.constexpr(1e-12)
HALVES = tl.constexpr(
    12582912.0
)  # 1.5 * 2**23: a number that is added has no bits left below one, rounded half to even


@triton.jit
def _kernel(
    x: tl.tensor, codes: tl.tensor, scales: tl.tensor, x_stride: tl.tensor, width: tl.tensor, block: tl.constexpr,
) -> None:  # fmt: skip
    row = tl.program_id(0).to(tl.int64)  # T * D may pass 2**31
    columns = tl.arange(0, block)
    inside = columns < width
    values = tl.load(x + row * x_stride + columns, mask=inside, other=0.0).to(tl.float32)
    is_number = values == values
    largest = tl.maximum(tl.max(tl.where(is_number, tl.abs(values), 0.0), axis=0), SMALLEST)
    scale = tl.div_rn(largest, LARGEST)
    has_nan = tl.min(is_number.to(tl.int32), axis=0) == 0
    tl.store(scales + row, tl.where(has_nan, float("nan"), scale))
    finite = tl.where(is_number & (tl.abs(values) < float("inf")), values, 0.0)
    ratios = tl.div_rn(finite, tl.zeros_like(values) + tl.where(has_nan, float("inf"), scale))
    tl.store(codes + row * width + columns, ((ratios + HALVES) - HALVES).to(tl.int8), mask=inside)


def int8_rows_triton(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Launch the kernel on rows that int8_rows has checked.  Raises ValueError where D exceeds MAX_WIDTH."""
    rows, width = x.shape
    block = block_of("x", width)
    codes = torch.empty(rows, width, dtype=torch.int8, device=x.device)
    scales = torch.empty(rows, dtype=torch.float32, device=x.device)
    if not rows:
        return codes, scales
    x = unit_columns(x)
    with device_of(x):
        _kernel[(rows,)](x, codes, scales, x.stride(0), width, block, num_warps=warps_of(block))
    return codes, scales
