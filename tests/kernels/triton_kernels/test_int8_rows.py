"""The Triton kernel of int8_rows under Triton's interpreter against its reference."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lego_kernels import examples, reference
from lego_kernels.launching import MAX_WIDTH
from lego_kernels.triton_kernels.int8_rows import int8_rows_triton

SIZES = [(1, 1), (1, 96), (7, 31), (17, 96), (5, 128), (3, 1536), (0, 64)]
dtypes = st.sampled_from([torch.float32, torch.float16])


def check(x: torch.Tensor) -> None:
    """Codes and scales are the reference's, bit for bit."""
    codes, scales = int8_rows_triton(x)
    expected = reference.int8_rows(x)
    assert codes.dtype == torch.int8
    assert torch.equal(codes, expected[0])
    assert torch.equal(scales.nan_to_num(nan=-1.0), expected[1].nan_to_num(nan=-1.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_codes_are_the_references(size: tuple[int, int], dtype: torch.dtype) -> None:
    """At sizes of a mask, an exact power of two, a real width, nothing."""
    check(**examples.int8_rows(*size, dtype))


@settings(deadline=None, max_examples=40)
@given(rows=st.integers(0, 5), width=st.integers(1, 70), dtype=dtypes, whole=st.booleans())
def test_any_size_has_the_references_codes(rows: int, width: int, dtype: torch.dtype, whole: bool) -> None:
    """Whole numbers from -127 to 254 make many halves, which are rounded to even."""
    x = examples.int8_rows(rows, width, dtype)["x"]
    check((x * 20).round().clamp(-127, 254) if whole else x)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_row_that_is_not_finite_stays_so(bad: float) -> None:
    """Through its scale."""
    x = torch.ones(3, 8)
    x[1, 5] = bad
    check(x)


def test_rows_may_lie_apart_in_memory() -> None:
    """A slice of wider rows, and columns of a transposed tensor."""
    x = examples.int8_rows(6, 40, torch.float32)["x"]
    expected = int8_rows_triton(x)[0]
    for spread in (torch.cat([x, x], dim=1)[:, :40], x.t().contiguous().t()):
        assert torch.equal(int8_rows_triton(spread)[0], expected)


def test_a_row_wider_than_a_program_is_refused() -> None:
    """Before anything is launched."""
    with pytest.raises(ValueError, match=f"x has rows of {MAX_WIDTH + 1} values"):
        int8_rows_triton(torch.ones(1, MAX_WIDTH + 1))
