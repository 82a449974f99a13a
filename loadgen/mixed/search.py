"""The highest rate a server bears: bracket, then bisect; pure, the clock is an argument."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from loadgen.mixed.objective import Attainment
from loadgen.mixed.plan import SearchPlan

Clock = Callable[[], float]
Try = Callable[[float, int], tuple[Attainment, bool]]  # rate and number of the probe to what came of it


@dataclass(frozen=True, slots=True)
class Probe:
    """One rate tried."""

    rate_rps: float
    attainment: Attainment
    is_passed: bool


@dataclass(frozen=True, slots=True)
class Search:
    """All rates tried, in order."""

    probes: tuple[Probe, ...]

    @property
    def highest_rps(self) -> float:
        """The highest rate that passed below all that failed; 0 when none did."""
        failed = self.lowest_failed_rps
        return max((p.rate_rps for p in self.probes if p.is_passed and p.rate_rps < failed), default=0.0)

    @property
    def lowest_failed_rps(self) -> float:
        """The lowest rate that failed, infinite when none did: then the search ended before it met a limit."""
        return min((p.rate_rps for p in self.probes if not p.is_passed), default=math.inf)


def search(attempt: Try, start_rps: float, plan: SearchPlan, clock: Clock) -> Search:
    """Probe until the bracket is narrow enough or the next probe would outlast the budget.

    Until one rate passed the budget does not count: a search that knows only what is too much has found nothing.
    """
    found = Search(())
    begun = clock()
    longest_s = 0.0
    rate: float | None = start_rps
    while rate is not None and len(found.probes) < plan.most_probes:
        before = clock()
        if found.highest_rps and before - begun + longest_s > plan.budget_s:
            break
        reached, is_passed = attempt(rate, len(found.probes))
        longest_s = max(longest_s, clock() - before)
        found = Search((*found.probes, Probe(rate, reached, is_passed)))
        rate = _next_rate(found, plan)
    return found


def _next_rate(found: Search, plan: SearchPlan) -> float | None:
    low, high = found.highest_rps, found.lowest_failed_rps
    if low == 0.0:
        return high / plan.step
    if math.isinf(high):
        return low * plan.step
    return math.sqrt(low * high) if high / low > plan.resolution else None
