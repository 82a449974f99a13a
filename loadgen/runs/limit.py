"""The rate at which attainment falls to a target, from trials at several rates, with its confidence interval."""

import itertools
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from loadgen.runs.bootstrap import REPLICATES, interval, resampled_means


@dataclass(frozen=True, slots=True)
class Trial:
    """One repeat at one rate: who met the objective, in the order of the requests."""

    rate_rps: float
    repeat: int
    met: Sequence[bool]

    @property
    def attainment(self) -> float:
        """The share that met it."""
        return sum(self.met) / len(self.met)


@dataclass(frozen=True, slots=True)
class Limit:
    """The highest rate, and the interval it lies in with 95 % confidence.

    ``is_bracketed`` is false where all rates passed, or none did: then it is only a bound.
    """

    rate_rps: float
    low_rps: float
    high_rps: float
    is_bracketed: bool


def find_limit(trials: Sequence[Trial], target: float, rng: np.random.Generator) -> Limit:
    """Return the limit of at least one trial."""
    rates = sorted({trial.rate_rps for trial in trials})
    means = {rate: np.mean([t.attainment for t in trials if t.rate_rps == rate]) for rate in rates}
    curve = falling([float(means[rate]) for rate in rates])
    rate_rps = crossing(rates, curve, target)
    low, high = interval(resampled_limits(trials, target, rng))
    wider = _widening(len({trial.repeat for trial in trials}))
    is_bracketed = curve[0] >= target > curve[-1]
    return Limit(
        rate_rps, max(0.0, rate_rps - wider * (rate_rps - low)), rate_rps + wider * (high - rate_rps), is_bracketed
    )


def _widening(repeats: int) -> float:
    """Return by how much the interval of few repeats is too narrow: resampling them shows too little variance."""
    return math.sqrt(repeats / (repeats - 1)) if repeats > 1 else 1.0


def resampled_limits(trials: Sequence[Trial], target: float, rng: np.random.Generator) -> np.ndarray:
    """Return the limits of resamples: of repeats, the same at all rates, and of blocks of requests in each."""
    rates = sorted({trial.rate_rps for trial in trials})
    resampled: Mapping[float, dict[int, np.ndarray]] = defaultdict(dict)
    for trial in trials:
        resampled[trial.rate_rps][trial.repeat] = resampled_means([float(m) for m in trial.met], REPLICATES, rng)
    repeats = sorted({trial.repeat for trial in trials})
    limits = np.empty(REPLICATES)
    for index in range(REPLICATES):
        chosen = [repeats[place] for place in rng.integers(len(repeats), size=len(repeats))]
        means = []
        for rate in rates:
            of_rate = resampled[rate]
            there = [repeat for repeat in chosen if repeat in of_rate] or list(of_rate)
            means.append(sum(float(of_rate[repeat][index]) for repeat in there) / len(there))
        limits[index] = crossing(rates, falling(means), target)
    return limits


def falling(values: Sequence[float]) -> list[float]:
    """Return the nearest values that never rise: a rate that did better than a lower one was lucky."""
    pools: list[tuple[float, int]] = []
    for value in values:
        pools.append((value, 1))
        while len(pools) > 1 and pools[-1][0] > pools[-2][0]:
            (above, many), (below, few) = pools.pop(), pools.pop()
            pools.append(((above * many + below * few) / (many + few), many + few))
    return [value for value, count in pools for _ in range(count)]


def crossing(rates: Sequence[float], curve: Sequence[float], target: float) -> float:
    """Return where a falling curve crosses the target: the highest rate where it never does, 0 where it begins below.

    Below the lowest rate nobody knows more than that attainment is whole at rate 0.
    """
    points = [(0.0, 1.0), *zip(rates, curve, strict=True)]
    for (low, above), (high, below) in itertools.pairwise(points):
        if below < target:
            return low if above <= below else low + (above - target) / (above - below) * (high - low)
    return rates[-1]
