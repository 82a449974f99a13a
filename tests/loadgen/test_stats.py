import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.stats import Spread, percentile

FLOATS = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30)


def test_percentile_interpolates() -> None:
    """Between two ranks the percentile lies in proportion."""
    assert percentile([4.0, 1.0, 3.0, 2.0], 0.5) == 2.5
    assert percentile([1.0, 2.0], 0.95) == pytest.approx(1.95)


@given(FLOATS, st.floats(0, 1))
def test_percentile_stays_inside(values: list[float], q: float) -> None:
    """No percentile leaves the range of the values."""
    assert min(values) <= percentile(values, q) <= max(values)


def test_no_values() -> None:
    """A percentile of nothing is an error, not a zero."""
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


def test_spread() -> None:
    """A spread is the median between its extremes."""
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
