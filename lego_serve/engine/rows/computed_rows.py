"""Counts the rows that a lane computes, and says what its tier saved of those that its steps would have been."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lego_serve.core.tiers.book import TierUse

if TYPE_CHECKING:
    from lego_serve.engine.lane_state import LaneState


def rows_computed(lane: "LaneState", steps: int) -> float:
    """Return the rows of a lane's image that its first ``steps`` computed in all branches, those elsewhere included."""
    here = range(lane.first_step, steps)
    return lane.rows_before + sum((2 if lane.is_guided(step) else 1) * _mean(lane.rows_by_block(step)) for step in here)


def tier_use(lane: "LaneState") -> TierUse:
    """Return the tier that a finished lane ran in, with the rows of its evaluations over those of the asked steps."""
    schedule, request = lane.schedule, lane.request
    asked = range(lane.skipped, lane.skipped + schedule.asked)
    wanted = lane.tokens * sum(map(request.asked_branches, asked)) / len(asked)
    ratio = rows_computed(lane, schedule.steps) / (wanted * schedule.steps)
    return TierUse(request.tier, schedule.steps, schedule.asked, ratio)


def _mean(numbers: Sequence[int]) -> float:
    return sum(numbers) / len(numbers)
