"""When a lone lane's branches go to two replicas: while it is faster, and while somebody has nothing else to do."""

from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.cluster.parallelism import ParallelRule
from lego_serve.core.placement.branch_window import BUSY_PAUSE_S, SLOW_PAUSE_S, BranchWindow


def test_only_a_lane_that_is_alone_and_has_a_helper_is_split() -> None:
    """And none at all where the rule says so."""
    window = BranchWindow()
    assert window.is_split(lanes=1, has_helper=True, now=0.0)
    assert not window.is_split(lanes=2, has_helper=True, now=0.0)
    assert not window.is_split(lanes=1, has_helper=False, now=0.0)
    assert not BranchWindow(ParallelRule(splits=False)).is_split(lanes=1, has_helper=True, now=0.0)


def test_a_busy_helper_is_asked_again_after_a_while() -> None:
    """Not at every step."""
    window = BranchWindow()
    window.note_busy(10.0)
    assert not window.is_split(lanes=1, has_helper=True, now=10.0 + BUSY_PAUSE_S / 2)
    assert window.is_split(lanes=1, has_helper=True, now=10.0 + BUSY_PAUSE_S)


def test_splitting_that_does_not_pay_is_left_off_and_tried_again() -> None:
    """One slow step among fast ones changes nothing."""
    window = BranchWindow()
    for now in range(5):
        window.note_split(1.0, 0.55, float(now))
    window.note_split(1.0, 1.0, 5.0)
    assert window.is_split(lanes=1, has_helper=True, now=5.0)
    for now in (6.0, 7.0, 8.0):
        if window.is_split(lanes=1, has_helper=True, now=now):
            window.note_split(1.0, 1.1, now)
            left_off_s = now
    assert not window.is_split(lanes=1, has_helper=True, now=left_off_s + SLOW_PAUSE_S / 2)
    assert window.is_split(lanes=1, has_helper=True, now=left_off_s + SLOW_PAUSE_S)


@given(st.lists(st.tuples(st.floats(0.0, 10.0), st.floats(0.0, 10.0)), max_size=50))
def test_steps_of_no_measured_time_change_nothing_and_the_mean_is_within_what_was_seen(
    steps: list[tuple[float, float]],
) -> None:
    """Whatever clocks say."""
    window = BranchWindow(ParallelRule(min_speed_up=0.0, cheap_speed_up=0.0))
    seen = []
    for paired_s, took_s in steps:
        window.note_split(paired_s, took_s, 0.0)
        if paired_s > 0.0 and took_s > 0.0:
            seen.append(paired_s / took_s)
    if not seen:
        assert window.speed_up is None
    else:
        assert window.speed_up is not None
        assert min(seen) * 0.999 <= window.speed_up <= max(seen) * 1.001
