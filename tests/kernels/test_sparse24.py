"""sparse24 on a CPU: its bits, its rule for equals, the way back and its errors."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lego_kernels import examples, reference, sparse24
from lego_kernels.sparse24 import sparse24_rows, sparse24_unpack

SIZES = [(1, 4), (7, 36), (17, 96), (5, 128), (3, 1536), (0, 64), (2, 8)]
numbers = st.one_of(st.floats(width=16), st.sampled_from([0.0, -0.0, 1.0, -1.0]))
groups = st.lists(st.tuples(numbers, numbers, numbers, numbers), min_size=1, max_size=5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_cpu_gives_the_reference_bit_for_bit(size: tuple[int, int], dtype: torch.dtype) -> None:
    """Values and places."""
    arguments = examples.sparse24(*size, dtype)
    values, places = sparse24(**arguments)
    expected = reference.sparse24(**arguments)
    assert values.dtype == dtype
    assert places.dtype == torch.uint8
    assert torch.equal(values, expected[0])
    assert torch.equal(places, expected[1])


@settings(deadline=None)
@given(row=groups)
def test_two_of_four_are_kept_and_of_equals_the_first(row: list[tuple[float, ...]]) -> None:
    """As sorting by magnitude says; numbers that are none come before all others."""
    values, places = sparse24(torch.tensor(row).view(1, -1))
    halves = [half for byte in places[0].tolist() for half in (byte & 15, byte >> 4)]
    for index, group in enumerate(row):
        order = sorted(range(4), key=lambda place: -math.inf if math.isnan(group[place]) else -abs(group[place]))
        is_nan = [place for place in range(4) if math.isnan(group[place])]
        kept = sorted([*is_nan, *(place for place in order if place not in is_nan)][:2])
        assert halves[index] == kept[0] + 4 * kept[1]
        expected = torch.tensor([group[place] for place in kept])
        assert torch.equal(values[0, 2 * index : 2 * index + 2].nan_to_num(nan=9e9), expected.nan_to_num(nan=9e9))
    assert not any(halves[len(row) :])


@settings(deadline=None)
@given(rows=st.integers(0, 5), width=st.integers(1, 12), dtype=st.sampled_from([torch.float32, torch.bfloat16]))
def test_the_way_back_has_zeros_in_place_of_what_was_dropped(rows: int, width: int, dtype: torch.dtype) -> None:
    """Everywhere else the row itself; packing it again changes nothing."""
    x = examples.sparse24(rows, 4 * width, dtype)["x"]
    back = sparse24_unpack(*sparse24(x))
    assert torch.equal(torch.where(back == 0, x, back), x)
    dropped = torch.where(back == 0, x.abs(), 0).unflatten(1, (-1, 4)).amax(dim=-1)
    kept = sparse24(x)[0].abs().unflatten(1, (-1, 2)).amin(dim=-1)
    assert bool((dropped <= torch.where(kept == 0, dropped, kept)).all())
    assert bool(((back != 0).unflatten(1, (-1, 4)).sum(dim=-1) <= 2).all())
    assert torch.equal(sparse24_unpack(*sparse24(back)), back)


@settings(deadline=None)
@given(row=groups, dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]))
def test_rows_with_zeros_are_those_that_are_packed(row: list[tuple[float, ...]], dtype: torch.dtype) -> None:
    """The same choice among equals and numbers that are none, also of rows that lie apart in memory."""
    x = torch.tensor([*row, *row]).view(2, -1).to(dtype)
    expected = sparse24_unpack(*sparse24(x))
    wide = torch.cat([x, x], dim=1)[:, : x.shape[1]]
    for found in (sparse24_rows(x), sparse24_rows(wide)):
        assert found.dtype == dtype
        assert torch.equal(found.nan_to_num(nan=9e4), expected.nan_to_num(nan=9e4))


def test_gradients_go_to_what_is_kept() -> None:
    """And to nothing else."""
    x = torch.tensor([[1.0, -4.0, 3.0, 2.0, 0.0, 0.0, 0.0, 0.0]], requires_grad=True)
    torch.autograd.backward(sparse24_rows(x).sum())
    assert torch.equal(x.grad, torch.tensor([[0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0]]))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.ones(6, 40, 1), r"x has shape \[6, 40, 1\], must be \[T, D\]"),
        (torch.ones(6, 42), r"x has shape \[6, 42\], must be \[T, D\] with D in 4s"),
        (torch.ones(6, 40).long(), r"x is torch.int64, must be one of"),
    ],
)
def test_an_argument_that_does_not_fit_is_named(x: torch.Tensor, message: str) -> None:
    """With its shape and the one it should have."""
    for op in (sparse24, sparse24_rows):
        with pytest.raises(ValueError, match=message):
            op(x)


@pytest.mark.parametrize(
    ("values", "places", "message"),
    [
        (torch.ones(6, 5), torch.zeros(6, 2).byte(), r"values has shape \[6, 5\], must be \[T, D / 2\] of pairs"),
        (torch.ones(6, 6), torch.zeros(6, 3).byte(), r"places has shape \[6, 3\], must be \[6, 2\]"),
        (torch.ones(6, 6), torch.zeros(6, 2), r"places of shape \[6, 2\] is torch.float32, must be torch.uint8"),
    ],
)
def test_parts_that_do_not_go_together_are_refused(values: torch.Tensor, places: torch.Tensor, message: str) -> None:
    """On the way back."""
    with pytest.raises(ValueError, match=message):
        sparse24_unpack(values, places)
