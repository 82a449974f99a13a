"""The kernel of residual_norm_modulate: x and update are read once and both results written once, one program a row.

Per row of D values it moves 4 D values, where the two kernels after another move 5 D, and 3 D of the tables, which stay
in the L2 cache.
"""

import torch
import triton
import triton.language as tl

from lego_kernels.launching import block_of, device_of, unit_columns, warps_of


@triton.jit
def _kernel(
    x: tl.tensor, update: tl.tensor, gate: tl.tensor, shift: tl.tensor, scale: tl.tensor, branch: tl.tensor,
    out: tl.tensor, x_stride: tl.tensor, update_stride: tl.tensor, gate_stride: tl.tensor, shift_stride: tl.tensor,
    scale_stride: tl.tensor, second_stride: tl.tensor, width: tl.tensor, eps: tl.tensor, block: tl.constexpr,
) -> None:  # fmt: skip
    row = tl.program_id(0).to(tl.int64)  # T * D may pass 2**31
    columns = tl.arange(0, block)
    inside = columns < width
    table_row = tl.load(branch + row)
    residual = tl.load(x + row * x_stride + columns, mask=inside, other=0.0).to(tl.float32)
    delta = tl.load(update + row * update_stride + columns, mask=inside, other=0.0).to(tl.float32)
    factor = tl.load(gate + table_row * gate_stride + columns, mask=inside, other=0.0).to(tl.float32)
    total = (residual + factor * delta).to(out.dtype.element_ty)
    tl.store(out + row * width + columns, total, mask=inside)
    values = total.to(tl.float32)  # as it was rounded
    mean = tl.sum(values, axis=0) / width
    centred = tl.where(inside, values - mean, 0.0)
    variance = tl.sum(centred * centred, axis=0) / width
    normed = centred * tl.rsqrt(variance + eps)
    gain = tl.load(scale + table_row * scale_stride + columns, mask=inside, other=0.0).to(tl.float32)
    offset = tl.load(shift + table_row * shift_stride + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + second_stride.to(tl.int64) + row * width + columns, normed * (1.0 + gain) + offset, mask=inside)


def residual_norm_modulate_triton(
    x: torch.Tensor,
    update: torch.Tensor,
    gate: torch.Tensor,
    shift: torch.Tensor,
    scale: torch.Tensor,
    branch: torch.Tensor,
    *,
    eps: float = 1e-6,
) -> torch.Tensor:
    """Launch the kernel on checked arguments.  Raises ValueError where D exceeds MAX_WIDTH."""
    rows, width = x.shape
    block = block_of("x", width)
    out = x.new_empty(2, rows, width)
    if not rows:
        return out
    x, update = unit_columns(x), unit_columns(update)
    gate, shift, scale = unit_columns(gate), unit_columns(shift), unit_columns(scale)
    with device_of(x):
        _kernel[(rows,)](
            x, update, gate, shift, scale, branch.contiguous(), out, x.stride(0), update.stride(0), gate.stride(0),
            shift.stride(0), scale.stride(0), rows * width, width, eps, block, num_warps=warps_of(block),
        )  # fmt: skip
    return out
