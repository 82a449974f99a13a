"""Searches the highest rate at which enough requests meet their objective, with repeats and a confidence interval."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from loadgen.mixed.objective import Attainment, Tally
from loadgen.mixed.plan import SearchPlan
from loadgen.mixed.search import Clock, search
from loadgen.progress import OnLine
from loadgen.runs.limit import Limit, Trial, find_limit
from loadgen.runs.outcome import Outcome
from loadgen.runs.summary import LATE_S, summarise

CLEAR_MISS = 0.15  # below the target: so much less is not repeated
CLEAR_PASS = 0.2  # of the misses that the target allows: so few are not repeated


class NotJudgedError(Exception):
    """The search has no result that would be worth anything; the message says why."""


@dataclass(frozen=True, slots=True)
class SweepPlan:
    """How a highest rate is searched and judged."""

    target: float
    start_rps: float
    repeats: int
    seconds: float
    fewest_requests: int
    search: SearchPlan
    refuses_late_client: bool = False

    def is_clear(self, attainment: float) -> bool:
        """Return whether a trial lies so far from the target that chance cannot have decided it."""
        return attainment < self.target - CLEAR_MISS or 1 - attainment <= CLEAR_PASS * (1 - self.target)

    def count(self, rate_rps: float) -> int:
        """Return how many requests a trial at a rate has."""
        return max(self.fewest_requests, math.ceil(rate_rps * self.seconds))


@dataclass(frozen=True, slots=True)
class Sweep:
    """All trials in order, with the numbers of each, and the limit that they show."""

    trials: Sequence[Trial]
    numbers: Sequence[dict[str, object]]
    limit: Limit


Attempt = Callable[[float, int, int], Sequence[Outcome]]  # a rate, how many requests, and which repeat
Gate = Callable[[], None]  # raises NotJudgedError where a measurement would be worth nothing now


def sweep(attempt: Attempt, plan: SweepPlan, clock: Clock, on_line: OnLine, gate: Gate = lambda: None) -> Sweep:
    """Bracket, bisect, and return the limit.  Raises NotJudgedError."""
    trials: list[Trial] = []
    numbers: list[dict[str, object]] = []

    def try_rate(rate_rps: float, _: int) -> tuple[Attainment, bool]:
        met: list[bool] = []
        for repeat in range(plan.repeats):
            gate()
            outcomes = attempt(rate_rps, plan.count(rate_rps), repeat)
            _check(outcomes, plan)
            trial = Trial(rate_rps, repeat, [outcome.is_met for outcome in outcomes])
            trials.append(trial)
            numbers.append({"rate_rps": rate_rps, "repeat": repeat, **summarise(outcomes)})
            on_line(f"{rate_rps:.3f} a second, repeat {repeat + 1}: {trial.attainment:.1%} in time")
            met += trial.met
            if repeat == 0 and plan.is_clear(trial.attainment):
                break
        reached = Attainment({"all": Tally(sum(met), len(met))}, 0)
        return reached, reached.ratio >= plan.target

    search(try_rate, plan.start_rps, plan.search, clock)
    return Sweep(trials, numbers, find_limit(trials, plan.target, np.random.default_rng(0)))


def _check(outcomes: Sequence[Outcome], plan: SweepPlan) -> None:
    """Refuse what the client measured of itself, where that is asked for."""
    late = sum(outcome.late_s > LATE_S for outcome in outcomes)
    if plan.refuses_late_client and late > len(outcomes) / 100:
        raise NotJudgedError(
            f"{late} of {len(outcomes)} requests were sent more than {1000 * LATE_S:.0f} ms late:"
            " this machine is too busy to measure; nothing is judged"
        )
