"""The kernel of sparse24: x is read once, half of its values and a byte of places for every eight are written.

One program a row.  A group of four lies in one thread, so that no values are exchanged.
"""

import torch
import triton
import triton.language as tl

from lego_kernels.launching import block_of, device_of, unit_columns, warps_of

EIGHT = 8  # numbers that a byte of places is for


@triton.jit
def _magnitude(values: tl.tensor) -> tl.tensor:
    """Return the bits of magnitudes, which have their order; any NaN comes after infinity as the same number."""
    return tl.minimum(values.to(tl.float32).to(tl.int32, bitcast=True) & 0x7FFFFFFF, 0x7F800001)


@triton.jit
def _kernel(
    x: tl.tensor, values: tl.tensor, places: tl.tensor, x_stride: tl.tensor, width: tl.tensor, block: tl.constexpr,
) -> None:  # fmt: skip
    row = tl.program_id(0).to(tl.int64)  # T * D may pass 2**31
    columns = tl.arange(0, block)
    numbers = tl.load(x + row * x_stride + columns, mask=columns < width, other=0.0)
    even, odd = tl.split(tl.reshape(numbers, (block // 4, 2, 2)))
    a, c = tl.split(even)
    b, d = tl.split(odd)
    of_a, of_b, of_c, of_d = _magnitude(a), _magnitude(b), _magnitude(c), _magnitude(d)
    # Each is kept unless two of the others are larger; of equals the first is.
    ab, ac, ad = (of_a >= of_b).to(tl.int32), (of_a >= of_c).to(tl.int32), (of_a >= of_d).to(tl.int32)
    bc, bd, cd = (of_b >= of_c).to(tl.int32), (of_b >= of_d).to(tl.int32), (of_c >= of_d).to(tl.int32)
    keeps_a, keeps_b = ab + ac + ad >= 2, (1 - ab) + bc + bd >= 2
    keeps_c, keeps_d = (1 - ac) + (1 - bc) + cd >= 2, (1 - ad) + (1 - bd) + (1 - cd) >= 2
    first = tl.where(keeps_a, 0, tl.where(keeps_b, 1, 2))
    second = tl.where(keeps_d, 3, tl.where(keeps_c, 2, 1))
    pair = tl.join(tl.where(keeps_a, a, tl.where(keeps_b, b, c)), tl.where(keeps_d, d, tl.where(keeps_c, c, b)))
    columns = tl.arange(0, block // 2)
    tl.store(values + row * (width // 2) + columns, tl.reshape(pair, (block // 2,)), mask=columns < width // 2)
    groups = tl.arange(0, block // 4)
    halves = tl.where(groups < width // 4, first | (second << 2), 0)
    low, high = tl.split(tl.reshape(halves, (block // 8, 2)))
    columns = tl.arange(0, block // 8)
    size = (width + 7) // 8
    tl.store(places + row * size + columns, (low | (high << 4)).to(tl.uint8), mask=columns < size)


def sparse24_triton(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Launch the kernel on rows that sparse24 has checked.  Raises ValueError where D exceeds MAX_WIDTH."""
    rows, width = x.shape
    block = max(block_of("x", width), 2 * EIGHT)
    values = x.new_empty(rows, width // 2)
    places = torch.empty(rows, -(-width // EIGHT), dtype=torch.uint8, device=x.device)
    if not rows:
        return values, places
    x = unit_columns(x)
    with device_of(x):
        _kernel[(rows,)](x, values, places, x.stride(0), width, block, num_warps=warps_of(block))
    return values, places
