"""The kernel of norm_modulate: x is read once and the result written once, one program a row.

Per row of D values it moves 2 D values, and 2 D of the tables, which stay in the L2 cache.
"""

import torch
import triton
import triton.language as tl

from lego_kernels.launching import block_of, device_of, unit_columns, warps_of


@triton.jit
def _kernel(
    x: tl.tensor, shift: tl.tensor, scale: tl.tensor, branch: tl.tensor, out: tl.tensor,
    x_stride: tl.tensor, shift_stride: tl.tensor, scale_stride: tl.tensor, width: tl.tensor, eps: tl.tensor,
    block: tl.constexpr,
) -> None:  # fmt: skip
    row = tl.program_id(0).to(tl.int64)  # T * D may pass 2**31
    columns = tl.arange(0, block)
    inside = columns < width
    values = tl.load(x + row * x_stride + columns, mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(values, axis=0) / width
    centred = tl.where(inside, values - mean, 0.0)
    # The second pass is over registers, and keeps the digits that E[x^2] - E[x]^2 loses.
    variance = tl.sum(centred * centred, axis=0) / width
    normed = centred * tl.rsqrt(variance + eps)
    table_row = tl.load(branch + row)
    gain = tl.load(scale + table_row * scale_stride + columns, mask=inside, other=0.0).to(tl.float32)
    offset = tl.load(shift + table_row * shift_stride + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * width + columns, normed * (1.0 + gain) + offset, mask=inside)


def norm_modulate_triton(
    x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor, branch: torch.Tensor, *, eps: float = 1e-6
) -> torch.Tensor:
    """Launch the kernel on arguments that norm_modulate has checked.  Raises ValueError where D exceeds MAX_WIDTH."""
    rows, width = x.shape
    block = block_of("x", width)
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    if not rows:
        return out
    x, shift, scale = unit_columns(x), unit_columns(shift), unit_columns(scale)
    with device_of(x):
        _kernel[(rows,)](
            x, shift, scale, branch.contiguous(), out,
            x.stride(0), shift.stride(0), scale.stride(0), width, eps, block, num_warps=warps_of(block),
        )  # fmt: skip
    return out
