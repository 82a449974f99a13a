"""When jobs that wait in a queue are expected to end: each waits for those before it and for a place, and then runs.

Places take the jobs in their order, each the one that comes next as soon as it is free.  Each job begins when the
first of the places is: the recursion over the times at which the places are free is that of the queue GI/G/c (Kiefer
and Wolfowitz, "On the theory of queues with many servers", 1955).  It follows that a job's expectation never falls with
what is before it, nor rises with one place more.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Queue:
    """What is known of a queue besides a tenant's own jobs in it; all in seconds that a place is taken.

    ``running_s``: what is left of the jobs that have places now.  ``others_s``: of the waiting jobs of other tenants,
    of which one has its turn for each of the tenant's own.  All these turns are taken to come first: in between, the
    order of two could change with one job more, and a job with more before it be expected sooner.
    """

    places: int
    running_s: Sequence[float] = ()
    others_s: Sequence[float] = ()

    def eta_s(self, before_s: Sequence[float], own_s: float) -> float:
        """Return in how many seconds a waiting job ends, given what it takes and those of its tenant before it do."""
        free_s = [0.0] * max(1, self.places)
        for seconds in (*self.running_s, *self.others_s[: len(before_s) + 1], *before_s):
            _take(free_s, seconds)
        return _take(free_s, own_s)

    def etas_s(self, waiting_s: Sequence[float]) -> list[float]:
        """Return the same of each of a tenant's waiting jobs, in their order."""
        return [self.eta_s(waiting_s[:index], own_s) for index, own_s in enumerate(waiting_s)]


def spread_s(seconds: float, jobs: int) -> list[float]:
    """Return what is left of jobs that take so many seconds each, of which nobody knows when they began.

    They end at even distances, the last of them when one has just begun.
    """
    return [seconds * (index + 1) / jobs for index in range(jobs)]


def left_s(seconds: float, ran_s: float) -> float:
    """Return what is left of a job that takes so many seconds and has run for some; none once that time is over."""
    return max(0.0, seconds - max(0.0, ran_s))


def _take(free_s: list[float], seconds: float) -> float:
    """Have the first place that is free taken for so long, and return when it is free again."""
    end_s = free_s[0] + max(0.0, seconds)
    heapq.heapreplace(free_s, end_s)
    return end_s
