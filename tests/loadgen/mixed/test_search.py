import math
import random

import pytest

from loadgen.client import Reply, Sample
from loadgen.mixed.objective import Attainment, Tally
from loadgen.mixed.plan import SearchPlan
from loadgen.mixed.search import Attempt, Probe, Search, search
from loadgen.traffic import Poisson

PLAN = SearchPlan(step=1.25, resolution=1.05, budget_s=1e9, most_probes=20)
NOBODY = Attainment({"all": Tally(0, 1)}, 0)


def below(capacity_rps: float, tried: list[float]) -> Attempt:
    """A server that bears every rate up to its capacity and none above."""

    def attempt(rate_rps: float, number: int) -> tuple[Attainment, bool]:
        assert number == len(tried)
        tried.append(rate_rps)
        return NOBODY, rate_rps <= capacity_rps

    return attempt


@pytest.mark.parametrize("capacity_rps", [0.4, 1.0, 1.9, 7.3])
def test_known_capacity_is_found(capacity_rps: float) -> None:
    """From either side of it, the search ends below the true capacity and within its resolution."""
    found = search(below(capacity_rps, []), 1.0, PLAN, lambda: 0.0)
    assert capacity_rps / PLAN.resolution <= found.highest_rps <= capacity_rps < found.lowest_failed_rps


def test_bracket_then_bisection() -> None:
    """Rates rise by the step until one fails; then each halves the bracket."""
    tried: list[float] = []
    search(below(1.5, tried), 1.0, PLAN, lambda: 0.0)
    assert tried[:3] == [1.0, 1.25, 1.5625]
    assert tried[3] == pytest.approx(math.sqrt(1.25 * 1.5625))


def test_budget_ends_the_search() -> None:
    """No probe begins that would outlast the budget, judged by the longest so far."""
    now = [0.0]

    def attempt(rate_rps: float, number: int) -> tuple[Attainment, bool]:
        now[0] += 40.0
        return NOBODY, True

    plan = SearchPlan(step=1.25, resolution=1.05, budget_s=100.0, most_probes=20)
    found = search(attempt, 1.0, plan, lambda: now[0])
    assert len(found.probes) == 2
    assert now[0] <= plan.budget_s
    assert math.isinf(found.lowest_failed_rps)


def test_budget_waits_for_a_rate_that_passes() -> None:
    """A search does not end for want of time while it knows only rates that are too high."""
    now = [0.0]

    def attempt(rate_rps: float, number: int) -> tuple[Attainment, bool]:
        now[0] += 100.0
        return NOBODY, rate_rps < 0.4

    plan = SearchPlan(step=1.25, resolution=1.05, budget_s=50.0, most_probes=20)
    found = search(attempt, 1.0, plan, lambda: now[0])
    assert 0.4 / plan.step < found.highest_rps < 0.4


def test_nothing_passes() -> None:
    """A server that meets its objective at no rate has a highest rate of zero, and the search ends."""
    found = search(below(0.0, []), 1.0, PLAN, lambda: 0.0)
    assert found.highest_rps == 0.0
    assert len(found.probes) == PLAN.most_probes


def test_luck_above_a_failure_does_not_count() -> None:
    """A rate that passed above one that failed is no capacity."""
    probes = [Probe(1.0, NOBODY, True), Probe(1.5, NOBODY, False), Probe(2.0, NOBODY, True)]
    assert Search(tuple(probes)).highest_rps == 1.0


SERVICE_S = 0.5
OBJECTIVE_S = 5 * SERVICE_S


def within_objective(rate_rps: float) -> float:
    """Share of an M/D/1 queue's customers served within the objective (Erlang's formula for the wait)."""
    wait_s = OBJECTIVE_S - SERVICE_S
    terms = (
        (rate_rps * (k * SERVICE_S - wait_s)) ** k / math.factorial(k) * math.exp(-rate_rps * (k * SERVICE_S - wait_s))
        for k in range(int(wait_s / SERVICE_S) + 1)
    )
    return (1 - rate_rps * SERVICE_S) * sum(terms)


def test_capacity_of_a_queue() -> None:
    """Over a simulated M/D/1 queue the search finds the rate that queueing theory names."""

    def attempt(rate_rps: float, number: int) -> tuple[Attainment, bool]:
        free, met = 0.0, 0
        times = Poisson(20_000, rate_rps).times_s(random.Random(3))
        for due in times:
            free = max(free, due) + SERVICE_S
            met += Sample(due, due, free, Reply(b"")).latency_s <= OBJECTIVE_S
        reached = Attainment({"all": Tally(met, len(times))}, 0)
        return reached, reached.is_enough(0.9, 0.75)

    found = search(attempt, 1.0, SearchPlan(1.25, 1.01, 1e9, 20), lambda: 0.0)
    assert within_objective(found.highest_rps) == pytest.approx(0.9, abs=0.02)
