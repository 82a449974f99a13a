"""Lanes that use a ControlNet in their next step, and lanes that wait for one that cannot be reached."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from lego_serve.core.scheduling.batching import StepPlan
from lego_serve.engine.lane_state import LaneState


def split_by_controlnet(lanes: Sequence[LaneState], name: str) -> tuple[list[LaneState], list[LaneState]]:
    """Return the lanes that use a ControlNet in their next step, and the others."""
    using = [lane for lane in lanes if _uses(lane, name)]
    return using, [lane for lane in lanes if not _uses(lane, name)]


def without_unavailable(plan: StepPlan, states: Mapping[str, LaneState]) -> StepPlan:
    """Return the plan less the lanes that wait for a ControlNet and took no step; the plan itself without any."""
    waiting = {key for key in plan.keys if key in states and states[key].unavailable}
    if not waiting:
        return plan
    advanced = [(key, step) for key, step in zip(plan.keys, plan.steps, strict=True) if key not in waiting]
    return replace(plan, keys=tuple(key for key, _ in advanced), steps=tuple(step for _, step in advanced))


def timed_out(states: Iterable[LaneState], name: str, since_s: float) -> list[str]:
    """Return the keys of the lanes that have waited for a ControlNet since then or longer."""
    return [state.request.key for state in states if state.unavailable.get(name, math.inf) <= since_s]


def _uses(lane: LaneState, name: str) -> bool:
    return any(control.source.spec.name == name for control in lane.controls_at(lane.step))
