"""The kernel of gated_residual: x and update are read once and the sum written once, one program a row.

Per row of D values it moves 3 D values, and D of the gates, which stay in the L2 cache.
"""

import torch
import triton
import triton.language as tl

from lego_kernels.launching import block_of, device_of, unit_columns, warps_of


@triton.jit
def _kernel(
    x: tl.tensor, update: tl.tensor, gate: tl.tensor, branch: tl.tensor, out: tl.tensor,
    x_stride: tl.tensor, update_stride: tl.tensor, gate_stride: tl.tensor, width: tl.tensor, block: tl.constexpr,
) -> None:  # fmt: skip
    row = tl.program_id(0).to(tl.int64)  # T * D may pass 2**31
    columns = tl.arange(0, block)
    inside = columns < width
    table_row = tl.load(branch + row)
    residual = tl.load(x + row * x_stride + columns, mask=inside, other=0.0).to(tl.float32)
    delta = tl.load(update + row * update_stride + columns, mask=inside, other=0.0).to(tl.float32)
    factor = tl.load(gate + table_row * gate_stride + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * width + columns, residual + factor * delta, mask=inside)


def gated_residual_triton(
    x: torch.Tensor, update: torch.Tensor, gate: torch.Tensor, branch: torch.Tensor
) -> torch.Tensor:
    """Launch the kernel on arguments that gated_residual has checked.  Raises ValueError where D exceeds MAX_WIDTH."""
    rows, width = x.shape
    block = block_of("x", width)
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    if not rows:
        return out
    x, update, gate = unit_columns(x), unit_columns(update), unit_columns(gate)
    with device_of(x):
        _kernel[(rows,)](
            x, update, gate, branch.contiguous(), out,
            x.stride(0), update.stride(0), gate.stride(0), width, block, num_warps=warps_of(block),
        )  # fmt: skip
    return out
