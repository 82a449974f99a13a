"""Step grids: the sigmas at which a lane evaluates its model, fewer than the steps that were asked for.

With v the velocity, Euler from sigma s_j to s_k is one evaluation at s_j.  A fine trajectory says what such a step
costs: the distance between it and the sum of the fine steps that it stands for.  The best grid of so many evaluations
is then a shortest path, found exactly by dynamic programming (as DPCache and CacheQuant plan their caches; an
order-0 step cache is Euler on a coarser grid, so nothing is cached here).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Grid:
    """The sigmas of a lane's evaluations, descending, with the final 0, and the sampler that runs on them.

    Raises ValueError for sigmas that no lane could run.
    """

    sampler: str
    sigmas: tuple[float, ...]

    def __post_init__(self) -> None:
        pairs = zip(self.sigmas, self.sigmas[1:], strict=False)
        is_falling = len(self.sigmas) >= 2 and all(a > b for a, b in pairs)
        if not (is_falling and 0 < self.sigmas[0] <= 1 and self.sigmas[-1] == 0):
            raise ValueError(f"a grid's sigmas fall from at most 1 to 0, these are {list(self.sigmas)}")

    @property
    def evaluations(self) -> int:
        """The number of forward passes from noise to image."""
        return len(self.sigmas) - 1

    def part_below(self, sigma: float) -> tuple[float, ...]:
        """Return the sigmas of a lane that begins at ``sigma``: that, and those of the grid below it."""
        return (sigma, *(each for each in self.sigmas if each < sigma))


def shifted_sigmas(steps: int, shift: float, last: float) -> tuple[float, ...]:
    """Return the sigmas of even times from 1 to ``last``, shifted as in Esser et al. (2024), equation 23, with a 0.

    ``steps`` evaluations; shift s takes t to s t / (1 + (s - 1) t).
    """
    times = [1 - index * (1 - last) / max(steps - 1, 1) for index in range(steps)]
    return (*(shift * t / (1 + (shift - 1) * t) for t in times), 0.0)


def plan_grid(cost: Sequence[Sequence[float]], evaluations: int) -> tuple[int, ...]:
    """Return the indices of the cheapest path from 0 to the last point in exactly ``evaluations`` jumps, ends included.

    ``cost[j][k]`` is that of the jump from j to k > j.  Exact, in O(evaluations * points^2).  Raises ValueError where
    there are fewer points than that takes, or no evaluation.
    """
    last = len(cost) - 1
    if not 1 <= evaluations <= last:
        raise ValueError(f"{evaluations} evaluations cannot be planned on {last} steps")
    best = [0.0] + [math.inf] * last
    came_from: list[list[int]] = []
    for _ in range(evaluations):
        reached, origins = [math.inf] * (last + 1), [-1] * (last + 1)
        for k in range(1, last + 1):
            for j in range(k):
                total = best[j] + cost[j][k]
                if total < reached[k]:
                    reached[k], origins[k] = total, j
        best = reached
        came_from.append(origins)
    path = [last]
    for origins in reversed(came_from):
        path.append(origins[path[-1]])
    return tuple(reversed(path))
