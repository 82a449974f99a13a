"""What follows a forward pass: each lane's sampler takes its step, and lanes whose numbers have gone bad are found."""

import math
from collections.abc import Mapping

import torch

from lego_serve.engine.lane_state import LaneState
from lego_serve.models.sampling import SAMPLERS

CHECK_EVERY_STEPS = 5  # where it has to be waited for: as often as the states of lanes are fetched anyway


def advance(state: LaneState, velocity: torch.Tensor, started_s: float, took_s: float, lanes: int) -> None:
    """Take a lane's step, in a pass of so many lanes that began and took so long."""
    take_step = SAMPLERS[state.request.sampler]
    sigma = state.schedule.sigmas[state.step]
    # Kept as tensors of this step; whoever wants a preview computes x - sigma v from them.
    state.predicted = torch.sub(state.latents, velocity, alpha=sigma)
    state.latents, state.history = take_step(state.latents, velocity, state.schedule, state.step, state.history)
    state.stepped()
    if state.edit is not None:
        state.predicted = state.edit.kept(state.predicted, 0.0)
        state.latents = state.edit.kept(state.latents, state.schedule.sigmas[state.step])
    state.started_s = started_s if math.isnan(state.started_s) else state.started_s
    state.step_s.append(took_s)
    state.step_lanes.append(lanes)


class NanCheck:
    """Finds the lanes whose latents have come to hold infinities or NaNs: such a sum is not finite either.

    One fetch of a number a lane, which is looked at after every step where the latents are in this process's own
    memory, and after every CHECK_EVERY_STEPS on a device, which would have to be waited for.
    """

    def __init__(self, device: torch.device) -> None:
        self._every = 1 if device.type == "cpu" else CHECK_EVERY_STEPS
        self._steps = 0

    def broken(self, latents: Mapping[str, torch.Tensor]) -> list[str]:
        """Those of a step's lanes, by their keys, that can come to nothing."""
        self._steps += 1
        if not latents or self._steps % self._every:
            return []
        sums = torch.stack([each.sum() for each in latents.values()]).tolist()
        odd = [key for key, total in zip(latents, sums, strict=True) if not math.isfinite(total)]
        return [key for key in odd if not is_finite(latents[key])]  # large numbers may add up to infinity


def is_finite(latents: torch.Tensor) -> bool:
    """Whether all numbers are finite."""
    return bool(torch.isfinite(latents).all())
