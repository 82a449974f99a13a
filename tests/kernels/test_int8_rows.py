"""int8_rows on a CPU: its bits, its properties and its errors."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lego_kernels import examples, int8_rows, reference

SIZES = [(1, 1), (7, 31), (17, 96), (5, 128), (3, 1536), (0, 64)]
numbers = st.floats(-(2.0**99), 2.0**99, width=32)
matrices = st.integers(1, 9).flatmap(
    lambda width: st.lists(st.lists(numbers, min_size=width, max_size=width), min_size=1, max_size=6)
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_cpu_gives_the_reference_bit_for_bit(size: tuple[int, int], dtype: torch.dtype) -> None:
    """Codes and scales."""
    arguments = examples.int8_rows(*size, dtype)
    codes, scales = int8_rows(**arguments)
    expected = reference.int8_rows(**arguments)
    assert codes.dtype == torch.int8
    assert torch.equal(codes, expected[0])
    assert torch.equal(scales, expected[1])


@settings(deadline=None)
@given(rows=matrices)
def test_what_is_read_back_is_half_a_step_away_at_most(rows: list[list[float]]) -> None:
    """And no code is -128; a row's largest number has the code 127, where its square is no rounding error."""
    x = torch.tensor(rows)
    codes, scales = int8_rows(x)
    error = (codes.double() * scales.double()[:, None] - x.double()).abs()
    assert bool((error <= 0.5001 * scales.double()[:, None]).all())
    assert int(codes.min()) >= -127
    large = x.abs().amax(dim=1) > 1e-9
    assert bool((codes.abs().amax(dim=1)[large] == 127).all())


@settings(deadline=None)
@given(rows=matrices, data=st.data())
def test_a_row_alone_gets_the_bits_it_gets_in_a_batch(rows: list[list[float]], data: st.DataObject) -> None:
    """However large its mates are; and the negative of a row has its codes with the other sign."""
    x = torch.tensor(rows)
    row = data.draw(st.integers(0, len(rows) - 1))
    codes, scales = int8_rows(x)
    alone = int8_rows(-x[row : row + 1])
    assert torch.equal(-alone[0][0], codes[row])
    assert torch.equal(alone[1][0], scales[row])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_row_that_is_not_finite_stays_so(bad: float) -> None:
    """Through its scale, and its mates know nothing of it."""
    x = torch.ones(3, 8)
    x[1, 5] = bad
    codes, scales = int8_rows(x)
    assert not torch.isfinite(scales[1])
    assert not codes[1].any()
    assert torch.equal(codes[[0, 2]], torch.full((2, 8), 127, dtype=torch.int8))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.ones(6, 40, 1), r"x has shape \[6, 40, 1\], must be \[T, D\]"),
        (torch.ones(6, 0), r"x has shape \[6, 0\], must be \[T, D\] with D >= 1"),
        (torch.ones(6, 40).long(), r"x is torch.int64, must be one of"),
    ],
)
def test_an_argument_that_does_not_fit_is_named(x: torch.Tensor, message: str) -> None:
    """With its shape and the one it should have."""
    with pytest.raises(ValueError, match=message):
        int8_rows(x)
