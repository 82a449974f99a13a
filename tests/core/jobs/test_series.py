"""Bins of what happened, percentiles, and what is expected of a request."""

from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.jobs.series import COARSE_S, FINE_KEPT, FINE_S, Series, SoloTimes, percentile

TIMES = st.lists(st.floats(1000, 1290, allow_nan=False), max_size=60)


@given(TIMES)
def test_nothing_that_happened_in_the_window_is_lost(times: list[float]) -> None:
    """In whatever order it is told, and in bins of either length."""
    series = Series()
    for at in times:
        series.add(at, {"ok": 1}, (at - 1000,))
    for length in (FINE_S, COARSE_S):
        bins = series.last(length, 300 // length, 1300.0)
        assert sum(each.counts.get("ok", 0) for each in bins) == len(times)
        assert [each.index for each in bins] == list(range(bins[0].index, bins[0].index + len(bins)))


@given(TIMES, TIMES)
def test_series_of_two_gateways_add_up(one: list[float], other: list[float]) -> None:
    """As if all had happened in one."""
    together, parts = Series(), [Series(), Series()]
    for part, times in zip(parts, (one, other), strict=True):
        for at in times:
            part.add(at, {"ok": 1})
            together.add(at, {"ok": 1})
    merged = Series()
    for part in parts:
        merged.merge(FINE_S, part.to_json(FINE_S, 1300.0, 300.0))
    counts = [each.counts for each in merged.last(FINE_S, 150, 1300.0)]
    assert counts == [each.counts for each in together.last(FINE_S, 150, 1300.0)]


def test_what_is_old_falls_out_and_does_not_come_back() -> None:
    """A late word about a time before all that is kept goes nowhere."""
    series = Series()
    for at in range(0, 2 * FINE_S * FINE_KEPT, FINE_S):
        series.add(float(at), {"ok": 1})
    series.add(2.0, {"ok": 1})
    now = float(2 * FINE_S * FINE_KEPT)
    bins = series.last(FINE_S, FINE_KEPT, now)
    assert [each.counts for each in bins] == [{"ok": 1}] * FINE_KEPT


def test_the_bin_under_way_is_left_out() -> None:
    """It would look like a fall."""
    series = Series()
    series.add(11.0, {"ok": 1})
    assert series.last(FINE_S, 1, 11.5)[0].counts == {}
    assert series.last(FINE_S, 1, 12.0)[0].counts == {"ok": 1}


def test_percentiles() -> None:
    """The smallest value that the share does not exceed."""
    assert percentile([], 0.5) is None
    assert [percentile([4, 1, 3, 2], share) for share in (0.0, 0.25, 0.5, 0.95, 1.0)] == [1, 1, 2, 4, 4]


@given(st.lists(st.floats(0.001, 100), min_size=1), st.floats(0, 1))
def test_a_percentile_is_one_of_the_values(values: list[float], share: float) -> None:
    """And no less than its share of them lie at or below it."""
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values)


def test_a_target_is_five_times_what_the_quickest_take() -> None:
    """By the work of a request; none before enough are known."""
    solo = SoloTimes()
    for _ in range(4):
        solo.learn("w", 100.0, 1.0)
    assert solo.target_s("w", 100.0) is None
    for seconds in (1.0, 3.0, 4.0, 9.0):
        solo.learn("w", 100.0, seconds)
    assert solo.target_s("w", 200.0) == 10.0
    assert solo.target_s("another", 200.0) is None
