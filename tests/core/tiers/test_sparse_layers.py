"""Which layers may be sparse: as many as a tolerance allows, the least sensitive first."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.tiers.sparse_layers import choose_sparse, expected_error

errors = st.dictionaries(st.text("abcd", min_size=1, max_size=3), st.floats(0, 2), max_size=12)
tolerances = st.floats(0, 3)


@given(errors=errors, tolerance=tolerances)
def test_what_is_chosen_stays_within_the_tolerance_and_no_layer_more_would(
    errors: dict[str, float], tolerance: float
) -> None:
    """No layer that is left out loses less than one that is taken."""
    chosen = choose_sparse(errors, tolerance)
    assert len(set(chosen)) == len(chosen)
    assert expected_error(errors, chosen) <= tolerance + 1e-6
    left = min((error for layer, error in errors.items() if layer not in chosen), default=math.inf)
    assert all(errors[layer] <= left for layer in chosen)
    assert math.hypot(expected_error(errors, chosen), left) >= tolerance - 1e-6


@given(errors=errors, first=tolerances, second=tolerances)
def test_a_higher_tolerance_only_adds_layers(errors: dict[str, float], first: float, second: float) -> None:
    """Those of the lower one come first, in the same order."""
    low, high = (choose_sparse(errors, tolerance) for tolerance in sorted((first, second)))
    assert high[: len(low)] == low


@given(errors=errors, tolerance=tolerances, order=st.randoms())
def test_the_order_of_measuring_does_not_matter(
    errors: dict[str, float], tolerance: float, order: random.Random
) -> None:
    """Equal errors are taken by name."""
    items = list(errors.items())
    order.shuffle(items)
    assert choose_sparse(dict(items), tolerance) == choose_sparse(errors, tolerance)


@pytest.mark.parametrize("error", [math.nan, math.inf])
def test_a_layer_whose_error_is_no_number_stays_dense(error: float) -> None:
    """However much is allowed; others are not held up by it."""
    assert choose_sparse({"a": error, "b": 0.5}, 1e9) == ("b",)
    assert choose_sparse({"a": error}, math.inf if math.isnan(error) else 1e9) == ()
