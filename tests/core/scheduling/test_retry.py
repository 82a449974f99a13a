"""Retry policies: so many attempts, with pauses between them; and a budget for all that a process repeats."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.scheduling.retry import (
    RETRIES_A_REQUEST,
    RETRIES_A_SECOND,
    RETRIES_AT_ONCE,
    RetryBudget,
    RetryPolicy,
)


@given(st.integers(1, 200), st.lists(st.floats(0, 60), min_size=1, max_size=5))
def test_a_policy_pauses_once_less_than_it_tries(attempts: int, pauses_s: list[float]) -> None:
    """The last pause is repeated, and the sum of all is what it says."""
    policy = RetryPolicy(attempts, tuple(pauses_s))
    pauses = list(policy.pauses())
    assert len(pauses) == attempts - 1
    assert pauses[: len(pauses_s)] == pauses_s[: attempts - 1]
    assert set(pauses[len(pauses_s) :]) <= {pauses_s[-1]}
    assert policy.longest_s == pytest.approx(sum(pauses))


@pytest.mark.parametrize(("attempts", "pauses_s"), [(0, (1.0,)), (3, ()), (3, (1.0, -0.1))])
def test_what_is_no_policy_is_refused(attempts: int, pauses_s: tuple[float, ...]) -> None:
    """At the place where it is written down."""
    with pytest.raises(ValueError, match="no policy"):
        RetryPolicy(attempts, pauses_s)


@given(st.lists(st.floats(0.01, 60), min_size=1, max_size=5), st.lists(st.floats(0, 1), min_size=30, max_size=30))
def test_drawn_pauses_lie_between_the_shortest_and_the_longest(pauses_s: list[float], chances: list[float]) -> None:
    """As many as there are of the others; each at most three times the one before."""
    policy, draw = RetryPolicy(30, tuple(pauses_s)), iter(chances)
    pauses = list(policy.drawn(lambda: next(draw)))
    assert len(pauses) == 29
    before = min(pauses_s)
    for pause_s in pauses:
        assert min(pauses_s) <= pause_s <= min(max(pauses_s), 3 * before * 1.000001)
        before = pause_s


def test_calls_that_are_lost_together_are_not_made_again_together() -> None:
    """A hundred of them: their second tries are spread over more than a second."""
    rng = Random(1)
    policy = RetryPolicy(20, (0.1, 2.0))
    second = [sum(list(policy.drawn(rng.random))[:3]) for _ in range(100)]
    assert max(second) - min(second) > 1.0


EVENTS = st.lists(st.tuples(st.sampled_from(["request", "retry"]), st.floats(0, 5)), max_size=200)


@given(EVENTS)
def test_no_more_is_made_again_in_any_time_than_the_budget_says(events: list[tuple[str, float]]) -> None:
    """Between any two of the moments: those at once, and so many a second and a request."""
    budget, now = RetryBudget(0.0), 0.0
    taken: list[tuple[float, int, int]] = []  # when, the requests until then, the calls made again until then
    requests = again = 0
    for kind, passed_s in events:
        now += passed_s
        if kind == "request":
            requests += 1
            budget.request_begins(now)
        elif budget.take(now) == 0.0:
            again += 1
            taken.append((now, requests, again))
    for index, (begin_s, before, first) in enumerate(taken):
        for end_s, after, last in taken[index:]:
            allowed = RETRIES_A_SECOND * (end_s - begin_s) + RETRIES_A_REQUEST * (after - before)
            assert last - first + 1 <= RETRIES_AT_ONCE + allowed + 1e-6


@given(st.integers(0, 100), st.integers(1, 100))
def test_who_finds_no_room_in_the_budget_finds_it_after_the_time_that_it_was_told(requests: int, calls: int) -> None:
    """Nobody waits for ever: so many calls are all made again, the last within a third of a second each."""
    budget, now = RetryBudget(0.0), 0.0
    for _ in range(requests):
        budget.request_begins(now)
    for _ in range(calls):
        if wait_s := budget.take(now):
            now += wait_s + 1e-9
            assert budget.take(now) == 0.0
    assert now == pytest.approx(max(0.0, calls - RETRIES_AT_ONCE) / RETRIES_A_SECOND, abs=1e-3)


def test_requests_that_come_let_more_be_made_again() -> None:
    """One for every ten."""
    budget = RetryBudget(0.0)
    while budget.take(0.0) == 0.0:
        pass
    for _ in range(10):
        budget.request_begins(0.0)
    budget.request_begins(0.0)  # ten tenths are a little less than one
    assert budget.take(0.0) == 0.0
    assert budget.take(0.0) > 0.0
