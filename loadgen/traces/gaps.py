"""Gaps between requests, drawn so that rate, spread and clustering are those of a published trace."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

ERF_POINTS = 4001  # of the table of the normal distribution; the quantiles are far coarser


@dataclass(frozen=True, slots=True)
class Gaps:
    """A process of gaps.

    ``quantiles`` are (share of the gaps, gap in means that so many do not exceed), ascending from 0 to 1; two points
    at one share are a step.  Without quantiles gaps are gamma distributed with a coefficient of variation of ``cv``.
    Long gaps follow long ones: the ranks' correlation is ``weight`` and fades by ``memory`` with each request.
    Stamps are multiples of ``tick_s``, to which they are rounded.
    """

    quantiles: Sequence[tuple[float, float]] = ()
    cv: float = 1.0
    weight: float = 0.0
    memory: float = 0.0
    tick_s: float = 0.0

    def times_s(self, count: int, rate_rps: float, rng: np.random.Generator) -> np.ndarray:
        """Return when each of ``count`` requests is due, ascending; their mean rate is exact but for rounding."""
        gaps = self._gaps(count, rng)
        times = np.cumsum(gaps) * (count / rate_rps / max(float(gaps.sum()), 1e-12))
        return times if not self.tick_s else np.round(times / self.tick_s) * self.tick_s

    def _gaps(self, count: int, rng: np.random.Generator) -> np.ndarray:
        if not self.quantiles:
            shape = 1 / self.cv**2
            return np.asarray(rng.standard_gamma(shape, count) / shape)
        shares, gaps = (np.array(column) for column in zip(*self.quantiles, strict=True))
        return np.asarray(np.interp(_uniform(self._normal(count, rng)), shares, gaps))

    def _normal(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Return standard normal values, the sum of a slow part and of one that is new each time."""
        fresh = rng.standard_normal(count)
        if not self.weight:
            return fresh
        steps = rng.standard_normal(count) * math.sqrt(1 - self.memory**2)
        slow = np.empty(count)
        value = float(rng.standard_normal())
        for index, step in enumerate(steps):
            slow[index] = value = self.memory * value + step
        return np.asarray(math.sqrt(self.weight) * slow + math.sqrt(1 - self.weight) * fresh)


def _uniform(normal: np.ndarray) -> np.ndarray:
    """Return the share of the standard normal distribution below each value."""
    grid = np.linspace(-8, 8, ERF_POINTS)
    shares = np.array([0.5 * (1 + math.erf(x / math.sqrt(2))) for x in grid])
    return np.asarray(np.interp(normal, grid, shares))
