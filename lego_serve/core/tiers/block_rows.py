"""Rows per block: how many of an image's rows each block computes in each evaluation; the others pass it by.

Shiva-DiT (2026) keeps k = floor(N r[t, l]) of an image's N rows in block l at time t, those that a trained router
scores highest, and lets the others keep their value.  The shares r are numbers of the tier, known before the run; which
rows they are, the device decides.  Invariants: the first block is whole, and no block is without rows.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BlockRows:
    """The ``shares`` of rows by evaluation, and within one by block: each over 0 and at most 1, the first block's 1.

    Raises ValueError for shares that no lane could run.
    """

    shares: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        blocks = self.blocks
        if blocks < 2 or any(len(each) != blocks for each in self.shares):
            raise ValueError(f"rows per block need two blocks, as many in all of {len(self.shares)} evaluations")
        if any(each[0] != 1 or not all(0 < share <= 1 for share in each) for each in self.shares):
            raise ValueError("rows per block are shares over 0 and at most 1, and 1 in the first block")

    @classmethod
    def rising(cls, early: float, late: float, evaluations: int, blocks: int) -> "BlockRows":
        """Return shares that rise evenly from the second evaluation to the last, the same in all blocks but the first.

        The first evaluation is whole; Shiva-DiT learns shares that rise from the noise to the image.
        """
        last = max(evaluations - 2, 1)
        low, high = sorted((early, late))  # which a rounded sum may pass by a bit
        rise = [min(high, max(low, early + (late - early) * index / last)) for index in range(evaluations - 1)]
        return cls(((1.0,) * blocks, *((1.0, *[share] * (blocks - 1)) for share in rise)))

    @classmethod
    def about(cls, share: float, evaluations: int, blocks: int) -> "BlockRows":
        """Return shares that rise by up to two fifths about their mean ``share``, as Shiva-DiT's of 60 % do."""
        spread = min(0.2, share / 2, 1 - share)
        return cls.rising(share - spread, share + spread, evaluations, blocks)

    @property
    def blocks(self) -> int:
        """The number of blocks of the model that it is for."""
        return len(self.shares[0]) if self.shares else 0

    @property
    def evaluations(self) -> int:
        """The number of evaluations that it is for."""
        return len(self.shares)

    @property
    def rows_ratio(self) -> float:
        """The part of an image's rows that all blocks of all evaluations compute together."""
        return sum(map(sum, self.shares)) / (self.blocks * self.evaluations)

    def rows(self, left: int, tokens: int) -> tuple[int, ...]:
        """Return how many of an image's ``tokens`` rows each block computes with ``left`` evaluations still to come.

        That one counts: 1 is the last.  A lane that runs the end of a grid, such as image to image, runs the end of
        these as well.
        """
        return tuple(max(1, math.floor(share * tokens)) for share in self.shares[-left])
