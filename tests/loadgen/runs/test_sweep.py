import random

import numpy as np
import pytest

from loadgen.mixed.plan import SearchPlan
from loadgen.runs.limit import Trial, crossing, falling, find_limit
from loadgen.runs.outcome import Outcome
from loadgen.runs.sweep import NotJudgedError, Sweep, SweepPlan, sweep
from loadgen.traffic import Poisson
from tests.support.loadgen.queueing import highest_rate

SERVICE_S = 0.5
OBJECTIVE_S = 5 * SERVICE_S


def outcome(due_s: float, done_s: float, sent_s: float | None = None) -> Outcome:
    return Outcome(due_s, due_s if sent_s is None else sent_s, done_s, 200, None, "w", "generation", "", OBJECTIVE_S)


def queue(rate_rps: float, count: int, seed: str) -> list[Outcome]:
    """One worker, first come, first served, fixed service times."""
    free, found = 0.0, []
    for due_s in Poisson(count, rate_rps).times_s(random.Random(seed)):
        free = max(free, due_s) + SERVICE_S
        found.append(outcome(due_s, free))
    return found


def plan(repeats: int = 3, seconds: float = 600.0, refuses_late_client: bool = False) -> SweepPlan:
    search = SearchPlan(step=1.35, resolution=1.04, budget_s=1e9, most_probes=12)
    return SweepPlan(0.9, 0.7, repeats, seconds, 200, search, refuses_late_client)


def swept(seed: int, made: SweepPlan) -> Sweep:
    return sweep(lambda rate, count, repeat: queue(rate, count, f"{seed}/{repeat}"), made, lambda: 0.0, lambda _: None)


def test_the_limit_of_a_queue_lies_in_its_interval() -> None:
    """Of ten sweeps of an M/D/1 queue nearly all have the rate that theory names in their interval."""
    limits = [swept(seed, plan()).limit for seed in range(10)]
    exact = highest_rate(0.9, SERVICE_S, OBJECTIVE_S)
    assert sum(limit.low_rps <= exact <= limit.high_rps for limit in limits) >= 9
    assert all(limit.is_bracketed for limit in limits)
    assert np.mean([limit.rate_rps for limit in limits]) == pytest.approx(exact, rel=0.03)
    assert np.mean([limit.high_rps - limit.low_rps for limit in limits]) < 0.25 * exact


def test_rates_far_from_the_target_are_not_repeated() -> None:
    """A rate that is clearly borne, or clearly not, is tried once; those near the limit are repeated."""
    trials = swept(0, plan()).trials
    repeats = {rate: sum(t.rate_rps == rate for t in trials) for rate in {t.rate_rps for t in trials}}
    assert set(repeats.values()) == {1, 3}
    near = [rate for rate, count in repeats.items() if count == 3]
    assert all(abs(rate / highest_rate(0.9, SERVICE_S, OBJECTIVE_S) - 1) < 0.3 for rate in near)


def test_a_late_client_is_not_judged() -> None:
    """Where requests leave late the sweep ends without a result, if that is asked for."""

    def late(rate_rps: float, count: int, repeat: int) -> list[Outcome]:
        return [outcome(float(at), at + 0.3, sent_s=at + 0.2) for at in range(count)]

    with pytest.raises(NotJudgedError, match="sent more than 50 ms late"):
        sweep(late, plan(refuses_late_client=True), lambda: 0.0, lambda _: None)
    assert sweep(late, plan(), lambda: 0.0, lambda _: None).trials


def test_a_busy_machine_is_not_judged() -> None:
    """The gate is asked before every trial, and what it raises ends the sweep."""

    def busy() -> None:
        raise NotJudgedError("the machine is busy")

    with pytest.raises(NotJudgedError, match="the machine is busy"):
        sweep(lambda rate, count, repeat: queue(rate, count, "x"), plan(), lambda: 0.0, lambda _: None, busy)


def test_a_limit_without_a_failure_is_a_bound() -> None:
    """Where every rate passed the highest is a bound, and where none did the limit lies below the lowest."""
    rng = np.random.default_rng(0)
    above = find_limit([Trial(1.0, 0, [True] * 50), Trial(2.0, 0, [True] * 50)], 0.9, rng)
    assert (above.rate_rps, above.is_bracketed) == (2.0, False)
    below = find_limit([Trial(1.0, 0, [False, True] * 25)], 0.9, rng)
    assert 0 < below.rate_rps < 1.0
    assert not below.is_bracketed


def test_luck_at_a_higher_rate_is_averaged_out() -> None:
    """Attainment never rises with the rate: what does is pooled with what lies below it."""
    assert falling([1.0, 0.8, 0.9, 0.5]) == pytest.approx([1.0, 0.85, 0.85, 0.5])
    assert crossing([1.0, 2.0, 3.0], [1.0, 0.95, 0.85], 0.9) == pytest.approx(2.5)
