"""Own rows: steps that compute a part of an image's rows and take the others from the lane's own last steps.

Region-adaptive sampling (RAS, Liu et al., 2025): rows whose velocity hardly changes keep it, and the keys and values
that they had.  How many rows a step computes is decided here, before the run; which ones, on the device, from the
lane's own velocities.  Invariant: a step's work is known when the lane is added, so that it is planned as any other.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class OwnRows:
    """The ``share`` of rows that a sparse step computes; the first ``warm`` steps are dense, and every ``every``-th.

    Raises ValueError for a share outside 0..1, for no dense first step and for a distance below 2.
    """

    share: float
    warm: int = 4
    every: int = 8

    def __post_init__(self) -> None:
        if not (0 < self.share < 1 and self.warm >= 1 and self.every >= 2):
            raise ValueError(f"own rows of share {self.share}, {self.warm} first steps, dense every {self.every}")

    def is_dense(self, step: int) -> bool:
        """Whether a step computes all rows, whatever comes before it."""
        return step < self.warm or (step - self.warm + 1) % self.every == 0

    def rows_ratio(self, steps: int) -> float:
        """Return the part of the rows that so many steps compute, where nothing besides makes one of them dense."""
        return sum(1.0 if self.is_dense(step) else self.share for step in range(steps)) / steps

    def active_rows(self, rows: int) -> int:
        """Return how many of an image's rows a sparse step computes."""
        return min(rows, math.ceil(self.share * rows))
