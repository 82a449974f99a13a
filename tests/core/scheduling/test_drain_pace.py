"""How long what is pending will take, by the pace seen: honest, bounded, and without a guess that ages."""

import math
from collections import deque
from heapq import heappop, heappush
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.scheduling.drain_pace import FIRST_GUESS_S, MAX_WAIT_S, MIN_WAIT_S, DrainPace


def busy(image_s: float, images: int, at_once: int, start_s: float = 0.0) -> tuple[DrainPace, float]:
    """A queue that has always ``at_once`` images pending and ends one each ``image_s``, and the time it has come to."""
    pace, now = DrainPace(), start_s
    pace.begin(at_once, now)
    for _ in range(images):
        now += image_s
        pace.end(1, now)
        pace.begin(1, now)
    return pace, now


@given(
    image_s=st.floats(0.02, 5.0),
    images=st.integers(30, 300),
    pending=st.integers(1, 500),
    start_s=st.floats(0, 1e6),
    chance=st.floats(0, 1),
)
def test_a_rejected_client_is_told_the_time_within_a_factor_of_two(image_s, images, pending, start_s, chance) -> None:
    """What is pending is worked off one image after the other, and what was told lies within half and twice that."""
    pace, now = busy(image_s, images, pending, start_s)
    told = pace.retry_after_s(now, chance)
    took_s = pending * image_s
    assert MIN_WAIT_S <= told <= MAX_WAIT_S
    assert told <= 2 * max(took_s, MIN_WAIT_S)
    assert told >= min(took_s, MAX_WAIT_S) / 2.001


def test_a_change_of_pace_is_seen_within_a_minute_or_two() -> None:
    """Jobs that take ten times as long are expected to after two minutes of them."""
    pace, now = busy(0.1, 1200, 50)
    assert pace.wait_s(now) == pytest.approx(5.0, rel=0.05)
    for _ in range(120):
        now += 1.0
        pace.end(1, now)
        pace.begin(1, now)
    assert pace.wait_s(now) == pytest.approx(50.0, rel=0.6)


def test_a_queue_in_which_nothing_ends_is_expected_to_take_longer_and_longer() -> None:
    """Up to the bound; and before anything has ended a little more than was waited."""
    pace = DrainPace()
    pace.begin(4, 100.0)
    assert pace.retry_after_s(100.0, 0.0) == FIRST_GUESS_S
    assert FIRST_GUESS_S < pace.retry_after_s(110.0, 0.0) <= FIRST_GUESS_S + 10.0
    pace.end(1, 111.0)
    waits = [pace.retry_after_s(111.0 + later, 0.0) for later in (0, 60, 600, 6000)]
    assert waits == sorted(waits)
    assert waits[-1] == MAX_WAIT_S


def test_idle_time_says_nothing_about_the_pace() -> None:
    """An hour without a job leaves it as it was."""
    pace = DrainPace()
    pace.begin(1, 0.0)
    pace.end(1, 2.0)
    assert pace.wait_s(3600.0) == 0.0
    pace.begin(3, 3600.0)
    assert pace.wait_s(3600.0) == pytest.approx(6.0, rel=0.05)


def test_jobs_that_are_given_up_do_not_count_as_done() -> None:
    """A hundred that left at once do not make the queue look fast."""
    pace, now = busy(1.0, 100, 10)
    before = pace.wait_s(now)
    pace.begin(100, now)
    pace.end(100, now, is_done=False)
    assert pace.wait_s(now) == before
    assert pace.pending == 10


@given(st.lists(st.tuples(st.integers(1, 8), st.floats(0, 30)), max_size=60), st.floats(0, 1))
def test_the_time_told_is_bounded_whatever_happened(events, chance) -> None:
    """Between a second and five minutes."""
    pace, now, held = DrainPace(), 0.0, []
    for images, passed_s in events:
        now += passed_s
        if len(held) > 3:
            pace.end(held.pop(), now, is_done=images % 2 == 0)
        pace.begin(images, now)
        held.append(images)
        assert MIN_WAIT_S <= pace.retry_after_s(now, chance) <= MAX_WAIT_S


@pytest.mark.parametrize("seed", range(10))
def test_a_mixed_queue_is_foretold_within_a_factor_of_two(seed: int) -> None:
    """Jobs of one to eight images, of sizes that differ by ten, on two replicas: what was told against what it took."""
    rng, pace, now = Random(seed), DrainPace(), 0.0
    jobs = [(images := rng.choice((1, 1, 1, 2, 4, 8)), images * rng.uniform(0.2, 2.0)) for _ in range(300)]
    queue = deque(jobs[:60])
    for images, _ in queue:
        pace.begin(images, now)
    coming, free_s = deque(jobs[60:]), [0.0, 0.0]
    ends: list[tuple[float, int]] = []
    while queue:
        images, job_s = queue.popleft()
        begins_s = heappop(free_s)
        heappush(free_s, begins_s + job_s)
        heappush(ends, (begins_s + job_s, images))
        while ends and ends[0][0] <= free_s[0]:  # time has come to the next replica that is free
            now, done = heappop(ends)
            pace.end(done, now)
            if coming:
                queue.append(coming.popleft())
                pace.begin(queue[-1][0], now)
        if len(coming) == 60:
            break
    took_s = (sum(job_s for _, job_s in queue) + sum(end_s - now for end_s, _ in ends)) / 2
    assert took_s / 2 <= pace.wait_s(now) <= took_s * 2


@given(
    image_s=st.floats(0.02, 5.0),
    images=st.integers(1, 300),
    pending=st.integers(1, 500),
    more=st.integers(1, 100),
    later_s=st.floats(0.0, 1e6),
)
def test_what_is_expected_grows_with_what_is_pending_and_is_finite(image_s, images, pending, more, later_s) -> None:
    """Never less than no time; it is what a wait is told by, but nothing where that would be a guess."""
    pace, now = busy(image_s, images, pending)
    expected_s = pace.expected_s(now)
    assert expected_s == pace.wait_s(now) >= 0.0
    pace.begin(more, now)
    assert pace.expected_s(now) > expected_s
    long_since_s = pace.expected_s(now + later_s)
    assert long_since_s is None or 0.0 <= long_since_s < math.inf


def test_nothing_is_expected_before_anything_has_ended() -> None:
    """Where a client is told to come back after a guess; what was given up tells nothing."""
    pace = DrainPace()
    assert pace.expected_s(0.0) is None
    pace.begin(2, 0.0)
    pace.end(1, 5.0, is_done=False)
    assert pace.expected_s(5.0) is None
    assert pace.wait_s(5.0) > 0.0
