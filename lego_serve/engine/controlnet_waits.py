"""Lanes of a step that use a ControlNet, and those that wait for one that is away."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from lego_serve.core.scheduling.batching import StepPlan
from lego_serve.engine.lane_state import LaneState


def split_by_controlnet(
    states: Mapping[str, LaneState], keys: Sequence[str], name: str
) -> tuple[list[LaneState], list[str]]:
    """Of some lanes those that use a ControlNet in their next step, and the keys of the others."""
    using = [states[key] for key in keys if name in _names(states[key])]
    return using, [key for key in keys if name not in _names(states[key])]


def without_unavailable(plan: StepPlan, states: Mapping[str, LaneState]) -> StepPlan:
    """A plan but for the lanes that could not take its step, since a ControlNet is away; itself if there is none."""
    kept = [(key, step) for key, step in zip(plan.keys, plan.steps, strict=True) if not _is_absent(states.get(key))]
    if len(kept) == len(plan.keys):
        return plan
    return replace(plan, keys=tuple(key for key, _ in kept), steps=tuple(step for _, step in kept))


def timed_out(states: Iterable[LaneState], name: str, since: float) -> list[str]:
    """The lanes that have waited for a ControlNet since then or longer."""
    return [state.request.key for state in states if state.unavailable.get(name, math.inf) <= since]


def _names(state: LaneState) -> set[str]:
    return {control.source.spec.name for control in state.controls_at(state.step)}


def _is_absent(state: LaneState | None) -> bool:
    return state is not None and bool(state.unavailable)
