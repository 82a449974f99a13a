"""Compares two runs: by how much B differs from A, with confidence intervals, and whether that is worse."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from loadgen.runs.bootstrap import REPLICATES, block_indices, interval
from loadgen.runs.limit import Trial, find_limit, resampled_limits
from loadgen.runs.outcome import Outcome
from loadgen.runs.summary import waited_s

BETTER, WORSE, ALIKE, UNCLEAR = "better", "worse", "alike", "unclear"


@dataclass(frozen=True, slots=True)
class Run:
    """What a run's requests waited and whether each met its objective, in the order in which they were due."""

    waited_s: np.ndarray
    met: np.ndarray
    failed: np.ndarray
    span_s: float

    @classmethod
    def of(cls, outcomes: Sequence[Outcome]) -> "Run":
        """Return the run of at least one outcome."""
        ordered = sorted(outcomes, key=lambda outcome: outcome.due_s)
        span_s = max(o.done_s for o in ordered) - ordered[0].due_s
        met, failed = np.array([o.is_met for o in ordered]), np.array([not o.is_ok for o in ordered])
        return cls(np.array(waited_s(ordered)), met, failed, max(span_s, 1e-9))

    def at(self, indices: np.ndarray) -> "Run":
        """Return a resample of the run."""
        return Run(self.waited_s[indices], self.met[indices], self.failed[indices], self.span_s)


@dataclass(frozen=True, slots=True)
class Metric:
    """A number of a run; ``is_share`` ones are compared by difference, others by ratio."""

    name: str
    value: Callable[[Run], float]
    more_is_better: bool
    is_share: bool = False


METRICS = (
    Metric("attainment", lambda run: float(run.met.mean()), True, True),
    Metric("failures", lambda run: float(run.failed.mean()), False, True),
    Metric("goodput", lambda run: float(run.met.sum()) / run.span_s, True),
    Metric("mean", lambda run: float(run.waited_s.mean()), False),
    Metric("p50", lambda run: float(np.quantile(run.waited_s, 0.5)), False),
    Metric("p95", lambda run: float(np.quantile(run.waited_s, 0.95)), False),
    Metric("p99", lambda run: float(np.quantile(run.waited_s, 0.99)), False),
)
NAMES = tuple(metric.name for metric in METRICS)


@dataclass(frozen=True, slots=True)
class Difference:
    """One metric of both runs; ``change`` is B minus A for shares, else B over A minus 1, with its interval."""

    metric: str
    a: float
    b: float
    change: float
    low: float
    high: float
    verdict: str


def compare_runs(
    a: Sequence[Outcome], b: Sequence[Outcome], tolerance: float, seed: int, *, is_paired: bool
) -> list[Difference]:
    """Return the differences of all metrics.

    A metric is worse where even the mild end of the interval is beyond the tolerance, better where all of the interval
    is on the good side of none, alike where all of it is within the tolerance.  Paired runs had the same requests at
    the same times, so that the same requests are resampled in both.
    """
    runs = Run.of(a), Run.of(b)
    rng = np.random.default_rng(seed)
    pairs = [_resampled(*runs, rng, is_paired) for _ in range(REPLICATES)]
    return [_difference(metric, runs, pairs, tolerance) for metric in METRICS]


def _resampled(a: Run, b: Run, rng: np.random.Generator, is_paired: bool) -> tuple[Run, Run]:
    indices = block_indices(len(a.met), rng)
    others = indices if is_paired and len(a.met) == len(b.met) else block_indices(len(b.met), rng)
    return a.at(indices), b.at(others)


def _difference(
    metric: Metric, runs: tuple[Run, Run], pairs: Sequence[tuple[Run, Run]], tolerance: float
) -> Difference:
    before, after = (metric.value(run) for run in runs)
    changes = np.array([_change(metric, metric.value(a), metric.value(b)) for a, b in pairs])
    low, high = interval(changes)
    towards_better = (low, high) if metric.more_is_better else (-high, -low)
    change = _change(metric, before, after)
    return Difference(metric.name, before, after, change, low, high, verdict(*towards_better, tolerance))


def verdict(worst: float, best: float, tolerance: float) -> str:
    """Return what an interval of changes says, of which more is better."""
    if best < -tolerance:
        return WORSE
    if worst > 0:
        return BETTER
    return ALIKE if worst >= -tolerance and best <= tolerance else UNCLEAR


def _change(metric: Metric, before: float, after: float) -> float:
    if metric.is_share:
        return after - before
    return after / before - 1 if before else 0.0


def compare_limits(
    a: Sequence[Trial], b: Sequence[Trial], target: float, tolerance: float, rng: np.random.Generator
) -> Difference:
    """Return the difference of the highest rates of two sweeps."""
    before, after = (find_limit(trials, target, rng).rate_rps for trials in (a, b))
    changes = resampled_limits(b, target, rng) / np.maximum(resampled_limits(a, target, rng), 1e-9) - 1
    low, high = interval(changes)
    return Difference("limit", before, after, after / max(before, 1e-9) - 1, low, high, verdict(low, high, tolerance))
