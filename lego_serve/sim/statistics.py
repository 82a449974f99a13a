"""Means with confidence intervals, by the bootstrap; deterministic by seed."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

RESAMPLES = 1000
BLOCK = 20  # requests that are resampled together, since what befalls one befalls its neighbours


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.2f} ({self.low:.2f} to {self.high:.2f})"


def mean_of(values: Sequence[float], seed: int = 0) -> Estimate:
    """The mean of independent values, such as one of each trace."""
    rng = random.Random(seed)
    count = len(values)
    means = sorted(sum(rng.choices(values, k=count)) / count for _ in range(RESAMPLES))
    return _estimate(sum(values) / count, means)


def share_of(hits: Sequence[bool], seed: int = 0, resamples: int = RESAMPLES // 4) -> Estimate:
    """The share of hits in a sequence in which neighbours depend on each other."""
    rng = random.Random(seed)
    blocks = [hits[begin : begin + BLOCK] for begin in range(0, len(hits), BLOCK)]
    sums = [(sum(block), len(block)) for block in blocks]
    shares = []
    for _ in range(resamples):
        drawn = rng.choices(sums, k=len(sums))
        shares.append(sum(hit for hit, _ in drawn) / sum(size for _, size in drawn))
    return _estimate(sum(hits) / len(hits), sorted(shares))


def _estimate(mean: float, resampled: Sequence[float]) -> Estimate:
    last = len(resampled) - 1
    return Estimate(mean, resampled[round(0.025 * last)], resampled[round(0.975 * last)])


def highest(is_met: Callable[[float], bool], low: float, high: float, tolerance: float) -> float:
    """Bisect to the highest value that is met, between one that is and one that is not."""
    if not is_met(low):
        return 0.0
    while high - low > tolerance:
        middle = (low + high) / 2
        if is_met(middle):
            low = middle
        else:
            high = middle
    return low


def quantile(ordered: Sequence[float], share: float) -> float:
    """A quantile of values in order; 0 of none."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
