"""The kernel of gather_rows: the pixels of a few active tokens a program, read once and written once as rows."""

import torch
import triton
import triton.language as tl

from lego_kernels.launching import block_of, device_of, warps_of

TILE = 1024  # values a program: 16 rows of 64


@triton.jit
def _kernel(
    latents: tl.tensor, active: tl.tensor, out: tl.tensor, count: tl.tensor, channels: tl.tensor, height: tl.tensor,
    width: tl.tensor, patch: tl.constexpr, block_rows: tl.constexpr, block: tl.constexpr,
) -> None:  # fmt: skip
    rows = tl.program_id(0) * block_rows + tl.arange(0, block_rows)
    columns = tl.arange(0, block)[None, :]
    numbers = channels * patch * patch
    is_row = rows < count
    # An argument that is None leaves its branch out of the compiled kernel.
    tokens = rows if active is None else tl.load(active + rows, mask=is_row, other=0)
    tokens = tokens.to(tl.int32)[:, None]
    across = width // patch
    line = tokens // across * patch + columns // patch % patch
    place = tokens % across * patch + columns % patch
    inside = is_row[:, None] & (columns < numbers)
    source = columns // (patch * patch) * (height * width) + line * width + place
    values = tl.load(latents + source, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + rows.to(tl.int64)[:, None] * numbers + columns, values, mask=inside)


def gather_rows_triton(
    latents: torch.Tensor, active: torch.Tensor | None, *, patch: int, dtype: torch.dtype
) -> torch.Tensor:
    """Launch the kernel on arguments that gather_rows has checked.  Raises ValueError where a row is too wide."""
    channels, height, width = latents.shape
    numbers, count = channels * patch**2, height * width // patch**2 if active is None else active.shape[0]
    block = block_of("a token of latents", numbers)
    block_rows = max(TILE // block, 1)
    out = torch.empty(count, numbers, dtype=dtype, device=latents.device)
    if not count:
        return out
    active = None if active is None else active.contiguous()
    with device_of(latents):
        _kernel[(triton.cdiv(count, block_rows),)](
            latents.contiguous(), active, out, count, channels, height, width, patch, block_rows, block,
            num_warps=warps_of(block_rows * block),
        )  # fmt: skip
    return out
