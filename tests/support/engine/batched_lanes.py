"""Lanes and batchers for tests of planning."""

from typing import Any

from lego_serve.core.costs import StepWork
from lego_serve.core.scheduling.batching import StepBatcher, StepLimits, StepPlan
from lego_serve.core.scheduling.lane import Lane
from lego_serve.core.scheduling.ordering import LanePolicy

STEP_S = 0.1


def lane(key: str, steps: int = 2, rows: int = 10, added_s: float = 0.0, **more: Any) -> Lane:
    """A lane whose steps weigh the same."""
    return Lane(key, (StepWork(rows, rows),) * steps, added_s, **more)


def batcher_of(policy: LanePolicy, max_rows: int) -> StepBatcher:
    """A batcher bounded by rows alone."""
    return StepBatcher(policy, StepLimits(float("inf"), max_rows))


def plan_of(keys: tuple[str, ...], steps: tuple[int, ...], rows: int) -> StepPlan:
    """A plan whose work has as many rows as pairs."""
    return StepPlan(keys, steps, StepWork(rows, rows))
