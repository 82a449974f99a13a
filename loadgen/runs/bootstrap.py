"""Confidence intervals by resampling blocks of neighbours, for in a queue one late request makes the next one late."""

import math
from collections.abc import Sequence

import numpy as np

REPLICATES = 1000
LEVEL = 0.95
LEAST_BLOCK = 5


def block_length(count: int) -> int:
    """Return how many neighbours are resampled together: about the square root of how many there are."""
    return min(count, max(LEAST_BLOCK, math.isqrt(count)))


def block_indices(count: int, rng: np.random.Generator) -> np.ndarray:
    """Return ``count`` indices in blocks of neighbours that begin anywhere and go round."""
    length = block_length(count)
    starts = rng.integers(count, size=-(-count // length))
    return np.asarray((starts[:, None] + np.arange(length)).ravel()[:count] % count)


def resampled_means(values: Sequence[float], replicates: int, rng: np.random.Generator) -> np.ndarray:
    """Return the mean of each of so many resamples of blocks."""
    count, length = len(values), block_length(len(values))
    around = np.concatenate([np.asarray(values, dtype=float)] * 2)
    sums = np.concatenate([[0.0], np.cumsum(around)])
    starts = rng.integers(count, size=(replicates, -(-count // length)))
    return np.asarray((sums[starts + length] - sums[starts]).mean(axis=1) / length)


def interval(values: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """Return the bounds between which the middle ``level`` of the values lie."""
    low, high = np.quantile(values, ((1 - level) / 2, (1 + level) / 2))
    return float(low), float(high)
