"""lora_shrink and lora_expand on a CPU: their values, their properties and their errors."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lego_kernels import Factors, Segments, examples, lora_expand, lora_shrink, reference

# (segment lengths, width, ranks)
CASES = [
    ([1], 1, [1]),
    ([5, 0, 7], 33, [4, 16]),
    ([64, 3, 17, 1], 96, [1, 256, 8]),
    ([0], 16, [3]),
    ([], 16, [3]),
    ([9, 9, 9, 9, 9, 9, 9, 9], 64, [1, 2, 4, 8, 16, 32, 64, 128]),
]
BUDGET_ULPS = {torch.float32: 64.0, torch.float16: 4.0, torch.bfloat16: 4.0}
cases = st.tuples(
    st.lists(st.integers(0, 9), min_size=1, max_size=5), st.integers(1, 40), st.lists(st.integers(1, 20), min_size=1)
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("op", ["lora_shrink", "lora_expand"])
def test_a_cpu_gives_the_reference(op: str, case: tuple[list[int], int, list[int]], dtype: torch.dtype) -> None:
    """In float64, within the rounding of sums in another order."""
    arguments = getattr(examples, op)(*case, dtype)
    exact = getattr(reference, op)(**examples.widened(arguments))
    actual = {"lora_shrink": lora_shrink, "lora_expand": lora_expand}[op](**arguments)
    assert actual.dtype == dtype
    assert reference.ulps(actual, exact) <= BUDGET_ULPS[dtype]


@given(case=cases)
def test_rows_of_no_segment_stay_as_they_are(case: tuple[list[int], int, list[int]]) -> None:
    """Nothing is added to them, and they have no hidden values."""
    arguments = examples.lora_expand(*case, torch.float32)
    before = arguments["out"].clone()
    outside = torch.ones(len(before), dtype=torch.bool)
    for start, stop, _ in arguments["segments"].rows:
        outside[start:stop] = False
    lora_expand(**arguments)
    assert torch.equal(arguments["out"][outside], before[outside])
    hidden = lora_shrink(**examples.lora_shrink(*case, torch.float32))
    assert not hidden[outside].any()


def test_what_is_added_goes_into_the_columns_that_were_given() -> None:
    """Of several layers computed as one, only the one whose columns are passed changes."""
    arguments = examples.lora_expand([4, 5], 8, [2, 3], torch.float32)
    wide = torch.zeros(arguments["out"].shape[0], 24)
    wide[:, 8:16] = arguments["out"]
    lora_expand(**arguments | {"out": wide[:, 8:16]})
    assert torch.equal(wide[:, 8:16], lora_expand(**arguments))
    assert not wide[:, :8].any()
    assert not wide[:, 16:].any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Segments(((0, 4, 0), (3, 5, 0))), r"does not follow rows up to 4"),
        (lambda: Segments(((4, 3, 0),)), r"does not follow"),
        (lambda: Factors.down(torch.ones(2, 3), torch.ones(2, 4)), r"\[2, 4\] and \[2, 3\] do not go together"),
        (lambda: Factors.down(torch.ones(0, 3)), r"rank >= 1"),
        (lambda: Factors.up(torch.ones(3, 2), torch.ones(3, 2).double()), r"do not go together"),
        (lambda: Factors.up(torch.ones(2, 3).T), r"contiguous"),
        (lambda: Factors.up(torch.ones(3, 2), columns=(0, 1)), r"1 weights have columns"),
    ],
)
def test_factors_and_segments_that_make_no_sense_are_refused(make: Callable[[], Any], message: str) -> None:
    """When they are made, not when they are used."""
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("op", "changed", "message"),
    [
        (lora_shrink, {"x": torch.ones(10, 7)}, r"x has shape \[10, 7\], must be \[T, 8\]"),
        (lora_shrink, {"x": torch.ones(4, 8)}, r"x has 4 rows, the segments end at 10"),
        (lora_shrink, {"x": torch.ones(13, 8).half()}, r"factors are torch.float32 on cpu, x is torch.float16"),
        (lora_shrink, {"segments": Segments(((0, 3, 5),))}, r"name factors up to 5, there are 2"),
        (lora_expand, {"out": torch.ones(13, 9)}, r"out has shape \[13, 9\], must be \[T, 8\]"),
        (lora_expand, {"hidden": torch.ones(13, 3)}, r"hidden has shape \[13, 3\], must be \[T, H\] with H >= 4"),
        (lora_expand, {"hidden": torch.ones(12, 6)}, r"hidden has shape \[12, 6\], must be \[13, 6\]"),
    ],
)
def test_an_argument_that_does_not_fit_is_named(op: Any, changed: dict[str, Any], message: str) -> None:
    """With its shape and the one it should have."""
    arguments = getattr(examples, op.__name__)([2, 2], 8, [2, 3], torch.float32)
    with pytest.raises(ValueError, match=message):
        op(**arguments | changed)
