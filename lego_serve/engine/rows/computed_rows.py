"""Counts the rows that a lane computes, and says what its tier saved of those that its steps would have been."""

from collections.abc import Sequence
from typing import Protocol

from lego_serve.core.tiers.book import TierUse
from lego_serve.models.sampling import Schedule


class AskedLane(Protocol):
    """What was asked of a lane."""

    @property
    def tier(self) -> str:
        """The tier that it runs in."""
        ...

    def asked_branches(self, step: int) -> int:
        """Return the branches of an asked step."""
        ...


class CountedLane(Protocol):
    """A lane, as far as its rows are counted: see ``LaneState``."""

    schedule: Schedule
    tokens: int
    skipped: int
    first_step: int
    rows_before: float

    @property
    def request(self) -> AskedLane:
        """What was asked of it."""
        ...

    def is_guided(self, step: int) -> bool:
        """Whether a step has two branches."""
        ...

    def rows_by_block(self, step: int) -> tuple[int, ...]:
        """Return the rows of its image that each block of a step computes."""
        ...


def rows_computed(lane: CountedLane, steps: int) -> float:
    """Return the rows of a lane's image that its first ``steps`` computed in all branches, those elsewhere included."""
    here = range(lane.first_step, steps)
    return lane.rows_before + sum((2 if lane.is_guided(step) else 1) * _mean(lane.rows_by_block(step)) for step in here)


def tier_use(lane: CountedLane) -> TierUse:
    """Return the tier that a finished lane ran in, with the rows of its evaluations over those of the asked steps."""
    schedule = lane.schedule
    asked = range(lane.skipped, lane.skipped + schedule.asked)
    wanted = lane.tokens * sum(map(lane.request.asked_branches, asked)) / len(asked)
    ratio = rows_computed(lane, schedule.steps) / (wanted * schedule.steps)
    return TierUse(lane.request.tier, schedule.steps, schedule.asked, ratio)


def _mean(numbers: Sequence[int]) -> float:
    return sum(numbers) / len(numbers)
