"""Advances lanes after a forward pass: sampler steps, and detection of lanes with broken latents."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch

from lego_kernels import Stepped
from lego_serve.engine.lane_state import LaneState
from lego_serve.models.ragged.lane_input import VelocityRows
from lego_serve.models.sampling import SAMPLERS


class PassSize(NamedTuple):
    """The lanes of a forward pass, and their token rows."""

    lanes: int
    rows: int


CHECK_EVERY_STEPS = 5  # on a device, which is waited for as often anyway, when the states of lanes are fetched


def advance(
    state: LaneState, velocity: VelocityRows | torch.Tensor, started_s: float, took_s: float, size: PassSize
) -> None:
    """Take a lane's step with the velocity of a pass of that size, which began then and took so long."""
    kept = None if state.own is None else state.own.velocity
    if isinstance(velocity, VelocityRows) and state.request.sampler_run == "euler":
        sigmas = state.schedule.sigmas[state.step], state.schedule.sigmas[state.step + 1]
        stepped = velocity.euler(sigmas, kept, None if state.edit is None else state.edit.blend)
        state.history = ()
    else:
        stepped = _sampled(state, velocity.whole(kept) if isinstance(velocity, VelocityRows) else velocity)
    # Kept as a tensor of this step; a preview is made from it only when one is due.
    state.latents, state.predicted = stepped.latents, stepped.predicted
    if state.own is not None:
        state.own.take(stepped.velocity)
    state.count_step()
    if math.isnan(state.started_s):
        state.started_s = started_s
    state.step_s.append(took_s)
    state.step_lanes.append(size.lanes)
    state.step_rows.append(size.rows)
    state.step_at.append(started_s - state.added_s)


def _sampled(state: LaneState, velocity: torch.Tensor) -> Stepped:
    """Take a step of any sampler with a whole velocity: what ``VelocityRows.euler`` does, in parts."""
    sigma, next_sigma = state.schedule.sigmas[state.step], state.schedule.sigmas[state.step + 1]
    take_step = SAMPLERS[state.request.sampler_run]
    predicted = torch.sub(state.latents, velocity, alpha=sigma)
    latents, state.history = take_step(
        state.latents, velocity, state.schedule, state.step, state.history, state.request.seed
    )
    if state.edit is not None:
        blend = state.edit.blend
        predicted = torch.where(blend.mask, predicted, blend.noised(0.0))
        latents = torch.where(blend.mask, latents, blend.noised(next_sigma))
    return Stepped(latents, predicted, velocity)


class NanCheck:
    """Finds the lanes whose latents hold infinities or NaNs: the sum of such latents is not finite either.

    One number a lane is fetched: after every step where the latents are in this process's own memory, and after every
    CHECK_EVERY_STEPS on a device, which has to be waited for.
    """

    def __init__(self, device: torch.device) -> None:
        self._every = 1 if device.type == "cpu" else CHECK_EVERY_STEPS
        self._steps = 0

    def broken(self, latents: Mapping[str, torch.Tensor]) -> list[str]:
        """Return the keys of a step's lanes whose latents are not finite; none in a step that is not checked."""
        self._steps += 1
        if not latents or self._steps % self._every:
            return []
        sums = torch.stack([tensor.sum() for tensor in latents.values()]).tolist()
        suspicious = [key for key, total in zip(latents, sums, strict=True) if not math.isfinite(total)]
        return [key for key in suspicious if not is_finite(latents[key])]  # large numbers may add up to infinity


def is_finite(latents: torch.Tensor) -> bool:
    """Return whether all numbers are finite."""
    return bool(torch.isfinite(latents).all())
