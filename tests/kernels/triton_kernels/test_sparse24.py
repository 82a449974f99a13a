"""The Triton kernel of sparse24 under Triton's interpreter against its reference."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lego_kernels import examples, reference
from lego_kernels.launching import MAX_WIDTH
from lego_kernels.triton_kernels.sparse24 import sparse24_triton

SIZES = [(1, 4), (1, 8), (7, 36), (17, 96), (5, 128), (3, 1536), (0, 64)]
dtypes = st.sampled_from([torch.float32, torch.float16])


def check(x: torch.Tensor) -> None:
    """Values and places are the reference's, bit for bit."""
    values, places = sparse24_triton(x)
    expected = reference.sparse24(x)
    assert values.dtype == x.dtype
    assert torch.equal(values.nan_to_num(nan=60000.0), expected[0].nan_to_num(nan=60000.0))
    assert torch.equal(places, expected[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_larger_half_is_the_references(size: tuple[int, int], dtype: torch.dtype) -> None:
    """At sizes of one group, an odd number of groups, an exact power of two, a real width, nothing."""
    check(**examples.sparse24(*size, dtype))


@settings(deadline=None, max_examples=40)
@given(rows=st.integers(0, 5), groups=st.integers(1, 20), dtype=dtypes, data=st.data())
def test_any_size_is_the_references(rows: int, groups: int, dtype: torch.dtype, data: st.DataObject) -> None:
    """With equals, zeros of both signs, infinities and what is not a number among them."""
    x = examples.sparse24(rows, 4 * groups, dtype)["x"]
    for odd in data.draw(st.lists(st.sampled_from([0.0, -0.0, torch.inf, -torch.inf, torch.nan]), max_size=4)):
        if rows:
            x[data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, 4 * groups - 1))] = odd
    check(x)


def test_rows_may_lie_apart_in_memory() -> None:
    """A slice of wider rows, and columns of a transposed tensor."""
    x = examples.sparse24(6, 40, torch.float32)["x"]
    for spread in (torch.cat([x, x], dim=1)[:, :40], x.t().contiguous().t()):
        check(spread)


def test_a_row_wider_than_a_program_is_refused() -> None:
    """Before anything is launched."""
    with pytest.raises(ValueError, match=f"x has rows of {MAX_WIDTH + 4} values"):
        sparse24_triton(torch.ones(1, MAX_WIDTH + 4))
