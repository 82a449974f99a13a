"""When jobs in a queue are expected to end: worked examples, and what must hold of every queue."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.placement.queue_eta import Queue, left_s, spread_s

SECONDS = st.floats(0.0, 1e6)
SOME = st.lists(SECONDS, max_size=12)
QUEUES = st.builds(Queue, st.integers(0, 8), SOME, SOME)


def test_jobs_take_the_place_that_is_free_first() -> None:
    """Two places, free in 3 s and in 1 s: the first job ends at 5 s, the second at 7 s, the third at 9 s."""
    assert Queue(2, [3.0, 1.0]).etas_s([4.0, 4.0, 4.0]) == [5.0, 7.0, 9.0]


def test_a_job_with_a_free_place_takes_its_own_time() -> None:
    """Nothing is before it."""
    assert Queue(3, [9.0, 9.0]).etas_s([4.0]) == [4.0]


def test_more_jobs_may_run_than_there_are_places() -> None:
    """Some have places elsewhere that are gone when they end: what is too many waits as others do."""
    assert Queue(1, [1.0, 2.0]).etas_s([4.0]) == [7.0]


def test_other_tenants_have_a_turn_for_each_of_ones_own_as_long_as_they_wait() -> None:
    """Two of theirs: one before each of the first two."""
    assert Queue(1, [], [1.0, 1.0]).etas_s([2.0, 2.0, 2.0]) == [3.0, 6.0, 8.0]


def test_jobs_of_which_nothing_is_known_end_at_even_distances() -> None:
    """Four places that are taken for 8 s each: one is free every 2 s."""
    assert spread_s(8.0, 4) == [2.0, 4.0, 6.0, 8.0]
    assert spread_s(8.0, 0) == []
    assert [left_s(8.0, ran_s) for ran_s in (-1.0, 0.0, 3.0, 9.0)] == [8.0, 8.0, 5.0, 0.0]


@given(QUEUES, SOME, SECONDS)
def test_an_expectation_is_finite_and_no_less_than_what_the_job_takes(
    queue: Queue, before_s: list[float], own_s: float
) -> None:
    """However many are before it."""
    assert own_s <= queue.eta_s(before_s, own_s) < math.inf


@given(QUEUES, SOME, SECONDS, SECONDS, st.data())
def test_one_more_before_it_never_makes_a_job_end_sooner(
    queue: Queue, before_s: list[float], more_s: float, own_s: float, data: st.DataObject
) -> None:
    """Wherever it is put: the expectation grows with the position."""
    at = data.draw(st.integers(0, len(before_s)))
    longer = [*before_s[:at], more_s, *before_s[at:]]
    assert at_most(queue.eta_s(before_s, own_s), queue.eta_s(longer, own_s))


@given(QUEUES, SECONDS, st.integers(1, 20))
def test_jobs_that_are_alike_end_in_their_order(queue: Queue, seconds: float, count: int) -> None:
    """None before one that is claimed sooner."""
    etas_s = queue.etas_s([seconds] * count)
    assert all(at_most(sooner, later) for sooner, later in pairwise(etas_s))


@given(st.integers(1, 8), SOME, SOME, SOME, SECONDS)
def test_one_place_more_never_makes_a_job_end_later(
    places: int, running_s: list[float], others_s: list[float], before_s: list[float], own_s: float
) -> None:
    """Nor does one that runs and ends sooner."""
    fewer, more = Queue(places, running_s, others_s), Queue(places + 1, running_s, others_s)
    assert at_most(more.eta_s(before_s, own_s), fewer.eta_s(before_s, own_s))
    quicker = Queue(places, [seconds / 2 for seconds in running_s], others_s)
    assert at_most(quicker.eta_s(before_s, own_s), fewer.eta_s(before_s, own_s))


@given(st.integers(1, 8), st.integers(1, 40), st.floats(0.1, 1e3))
def test_a_long_queue_drains_at_the_pace_of_its_places(places: int, ahead: int, seconds: float) -> None:
    """All places taken by jobs alike: one begins every so many seconds divided by the places."""
    queue = Queue(places, spread_s(seconds, places))
    assert queue.eta_s([seconds] * ahead, seconds) == pytest.approx((ahead + 1) * seconds / places + seconds)


def at_most(less: float, more: float) -> bool:
    """Whether one is not the larger, but for what sums of floating-point numbers round."""
    return less <= more or math.isclose(less, more, rel_tol=1e-9)
