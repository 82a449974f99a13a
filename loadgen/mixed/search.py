"""Searches the highest rate a server bears: bracket, then bisect; pure, the clock is an argument."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from loadgen.mixed.objective import Attainment
from loadgen.mixed.plan import SearchPlan

Clock = Callable[[], float]
Attempt = Callable[[float, int], tuple[Attainment, bool]]  # a probe's rate and number to its result


@dataclass(frozen=True, slots=True)
class Probe:
    """One rate that was tried, and its attainment."""

    rate_rps: float
    attainment: Attainment
    is_passed: bool


@dataclass(frozen=True, slots=True)
class Search:
    """All probes of one search, in order."""

    probes: tuple[Probe, ...]

    @property
    def highest_rps(self) -> float:
        """The highest rate that passed below all that failed; 0 when none did."""
        failed = self.lowest_failed_rps
        return max((p.rate_rps for p in self.probes if p.is_passed and p.rate_rps < failed), default=0.0)

    @property
    def lowest_failed_rps(self) -> float:
        """The lowest rate that failed; infinite when the search ended before it met a limit."""
        return min((p.rate_rps for p in self.probes if not p.is_passed), default=math.inf)


def search(attempt: Attempt, start_rps: float, plan: SearchPlan, clock: Clock) -> Search:
    """Probe until the bracket is narrow enough or the next probe would outlast the budget.

    The budget counts once a rate has passed: a search that knows only rates that are too high has no result.
    """
    result = Search(())
    begun = clock()
    longest_s = 0.0
    rate: float | None = start_rps
    while rate is not None and len(result.probes) < plan.most_probes:
        before = clock()
        if result.highest_rps and before - begun + longest_s > plan.budget_s:
            break
        reached, is_passed = attempt(rate, len(result.probes))
        longest_s = max(longest_s, clock() - before)
        result = Search((*result.probes, Probe(rate, reached, is_passed)))
        rate = _next_rate(result, plan)
    return result


def _next_rate(result: Search, plan: SearchPlan) -> float | None:
    low, high = result.highest_rps, result.lowest_failed_rps
    if low == 0.0:
        return high / plan.step
    if math.isinf(high):
        return low * plan.step
    return math.sqrt(low * high) if high / low > plan.resolution else None
