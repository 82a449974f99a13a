"""What repeats is told so often and then counted."""

from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.repeats import KINDS_KEPT, RepeatLimit


def test_after_so_many_of_a_kind_the_rest_is_counted_and_told_with_the_next() -> None:
    """Two in ten seconds; other kinds have a count of their own."""
    limit = RepeatLimit(at_most=2, window_s=10.0)
    assert [limit.count("a", now) for now in (0.0, 1.0, 2.0, 3.0)] == [0, 0, None, None]
    assert limit.count("b", 3.0) == 0
    assert [limit.count("a", now) for now in (10.0, 11.0, 12.0)] == [2, 0, None]
    assert limit.count("a", 50.0) == 1


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 3)), max_size=200), st.integers(1, 5))
def test_nothing_is_lost_and_no_window_has_more_than_its_bound(events, at_most: int) -> None:
    """Told and left out together are all there were, but for what is left out still."""
    limit, now, told, counted = RepeatLimit(at_most, 5.0), 0.0, 0, 0
    waiting = dict.fromkeys("abc", 0)
    for kind, passed_s in events:
        now += passed_s
        left_out = limit.count(kind, now)
        if left_out is None:
            waiting[kind] += 1
            continue
        told += 1
        counted += left_out
        waiting[kind] -= left_out
        assert waiting[kind] >= 0
    assert told + counted + sum(waiting.values()) == len(events)
    assert told <= at_most * 3 * (now // 5.0 + 1)


def test_the_kinds_that_are_remembered_are_bounded() -> None:
    """Ten times as many kinds as are kept are all told, and the oldest are forgotten."""
    limit = RepeatLimit()
    assert {limit.count(f"kind {number}", float(number)) for number in range(10 * KINDS_KEPT)} == {0}
    assert len(limit._windows) <= KINDS_KEPT
