"""What is checked of add-ons, and how many steps may run before adapters arrive."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.addons import (
    MAX_ADDONS,
    MAX_SCALE,
    AdapterRequest,
    LoadedAdapter,
    check_contents,
    check_requests,
    entry_param,
    steps_without_adapter,
)
from lego_serve.errors import RequestError

Row = tuple[str, float, float, float]  # name, amount, start, end
names = st.from_regex(r"[a-z0-9_-]{1,64}", fullmatch=True)
numbers = st.floats() | st.floats(0, 1)
rows_of_any_kind = st.tuples(names | st.text(max_size=70), numbers, numbers, numbers)
loaded = st.builds(
    LoadedAdapter,
    request=st.builds(AdapterRequest, names, st.floats(-MAX_SCALE, MAX_SCALE)),
    sha256=st.sampled_from(["", "1", "2"]),
    size_bytes=st.just(1),
    has_text=st.booleans(),
    early_ratio=st.floats(0, 1),
)


def adapter(name: str, sha256: str = "1", scale: float = 1.0, early_ratio: float = 0.0) -> LoadedAdapter:
    """An adapter that changes the denoiser alone."""
    return LoadedAdapter(AdapterRequest(name, scale), sha256, 1, has_text=False, early_ratio=early_ratio)


@pytest.mark.parametrize(
    ("rows", "param", "code"),
    [
        ([("A", 1.0, 0.0, 1.0)], "lora[0].name", "invalid_value"),
        ([("a", 1.0, 0.0, 1.0), ("b", math.nan, 0.0, 1.0)], "lora[1].scale", "out_of_range"),
        ([("a", MAX_SCALE + 1, 0.0, 1.0)], "lora[0].scale", "out_of_range"),
        ([("a", 1.0, 0.5, 0.5)], "lora[0].start", "out_of_range"),
        ([("a", 1.0, 0.0, 1.0), ("a", 2.0, 0.0, 1.0)], "lora[1].name", "duplicate_name"),
        ([(str(i), 1.0, 0.0, 1.0) for i in range(MAX_ADDONS + 1)], "lora", "too_many"),
    ],
)
def test_a_bad_entry_is_refused_by_its_place(
    rows: list[tuple[str, float, float, float]], param: str, code: str
) -> None:
    """The error names the field, the index and the part of the entry."""
    with pytest.raises(RequestError) as caught:
        check_requests("lora", "an adapter", rows)
    assert (caught.value.param, caught.value.code) == (param, code)


@given(st.lists(rows_of_any_kind, max_size=MAX_ADDONS + 2))
def test_entries_that_pass_the_check_are_few_distinct_and_within_bounds(rows: list[Row]) -> None:
    """All others raise a RequestError."""
    try:
        check_requests("controlnet", "a ControlNet", rows)
    except RequestError:
        return
    assert len(rows) <= MAX_ADDONS
    assert len({name for name, *_ in rows}) == len(rows)
    assert all(abs(amount) <= MAX_SCALE and 0 <= start < end <= 1 for _, amount, start, end in rows)


@given(st.text(max_size=70))
def test_the_parameter_of_an_entry_repeats_only_plain_names(name: str) -> None:
    """Any other name is left out."""
    assert entry_param("lora", name) in ("lora", f"lora[{name}]")
    assert all(letter.isascii() and letter.isprintable() for letter in entry_param("lora", name))


def test_two_names_of_one_content_are_refused_once_both_hashes_are_known() -> None:
    """A file that has not been read yet has no hash and passes."""
    check_contents([adapter("a", "1"), adapter("b", "2"), adapter("c", ""), adapter("d", "")])
    with pytest.raises(RequestError, match="a and b have the same content") as caught:
        check_contents([adapter("a", "1"), adapter("b", "1")])
    assert (caught.value.param, caught.value.code) == ("lora[b]", "duplicate_content")


def test_the_latest_profile_decides_how_many_steps_run_early() -> None:
    """The smallest ratio counts, rounded down; a scale of 0 changes nothing, one above 1 was never measured."""
    early, late = adapter("a", early_ratio=0.3), adapter("b", early_ratio=0.9)
    assert steps_without_adapter([early, late], 20) == 6
    assert steps_without_adapter([late, adapter("c", scale=0.0)], 20) == 18
    assert steps_without_adapter([late, adapter("d", scale=1.5, early_ratio=0.9)], 20) == 0
    assert steps_without_adapter([], 20) == 0


@given(st.lists(loaded, max_size=4), st.integers(1, 100))
def test_at_least_one_step_has_all_adapters(adapters: list[LoadedAdapter], steps: int) -> None:
    """Another adapter that has an effect never lets more steps run early."""
    early = steps_without_adapter(adapters, steps)
    assert 0 <= early < steps
    if any(each.request.scale != 0 for each in adapters):
        assert steps_without_adapter([*adapters, adapter("more", early_ratio=0.5)], steps) <= early
