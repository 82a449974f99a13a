"""Runs a model's lanes offline, the same images again and again in different ways, and keeps what they pass through."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from lego_serve.core.tiers.grids import Grid
from lego_serve.engine.lane_state import AdapterUse, LaneRequest, LaneResult
from lego_serve.engine.offline import OfflinePipeline
from lego_serve.errors import LegoError


@dataclass(frozen=True, slots=True)
class Calibration:
    """The images that a model is tuned on: prompts, each with its seed, at one size (in pixels) and guidance.

    All are drawn with the ``adapters``, of which only those of the denoiser count.
    """

    prompts: tuple[str, ...]
    width: int
    height: int
    guidance: float
    first_seed: int = 0
    adapters: tuple[AdapterUse, ...] = field(default=(), repr=False)

    def part(self, first: int, count: int) -> "Calibration":
        """Return a few of them, each with its own seed."""
        return replace(self, prompts=self.prompts[first : first + count], first_seed=self.first_seed + first)

    def lanes(self, pipeline: OfflinePipeline, steps: int, sampler: str) -> list[LaneRequest]:
        """Return the lane of each image; they are as served, with the empty negative prompt where one guides."""
        conds = pipeline.text.encode(self.prompts)
        guided = pipeline.engine.uses_cfg and self.guidance > 1
        negative = pipeline.text.encode([""])[0] if guided else None
        size = self.width, self.height
        return [
            LaneRequest(
                str(i),
                *size,
                steps,
                self.guidance,
                self.first_seed + i,
                cond,
                negative,
                sampler=sampler,
                adapters=self.adapters,
            )
            for i, cond in enumerate(conds)
        ]


@dataclass(frozen=True, slots=True)
class Trajectory:
    """What a lane passed through: its sigmas, its latents at each, and the velocity at each but the last."""

    sigmas: tuple[float, ...]
    latents: list[torch.Tensor]
    velocities: list[torch.Tensor]


def trajectories(pipeline: OfflinePipeline, lanes: Sequence[LaneRequest]) -> list[Trajectory]:
    """Run lanes to their ends and return what they passed through.  Raises LegoError."""
    states = [pipeline.engine.add(lane) for lane in lanes]
    passed = [Trajectory(state.schedule.sigmas, [state.latents], []) for state in states]
    while pipeline.engine.lanes:
        for _, outcome in pipeline.engine.step():
            if isinstance(outcome, LegoError):
                raise outcome
        for one, state in zip(passed, states, strict=True):
            if one.latents[-1] is not state.latents:
                assert state.predicted is not None
                sigma = one.sigmas[len(one.velocities)]  # predicted = x - sigma v
                one.velocities.append((one.latents[-1] - state.predicted) / sigma)
                one.latents.append(state.latents)
    return passed


def ends(pipeline: OfflinePipeline, lanes: Sequence[LaneRequest]) -> list[torch.Tensor]:
    """Return the denoised latents of lanes, which run together.  Raises LegoError."""
    found: dict[str, torch.Tensor] = {}
    for lane in lanes:
        pipeline.engine.add(lane)
    while pipeline.engine.lanes:
        for key, outcome in pipeline.engine.step():
            if isinstance(outcome, LegoError):
                raise outcome
            assert isinstance(outcome, LaneResult)
            found[key] = outcome.latents
    return [found[lane.key] for lane in lanes]


def ends_on(
    pipeline: OfflinePipeline, lanes: Sequence[LaneRequest], grids: Mapping[str, Grid]
) -> dict[str, list[torch.Tensor]]:
    """Return, by the name of each grid, the latents that the lanes end with on it; all run in the same batches."""
    requests = [replace(lane, key=f"{name}/{lane.key}", grid=grid) for name, grid in grids.items() for lane in lanes]
    found = iter(ends(pipeline, requests))
    return {name: [next(found) for _ in lanes] for name in grids}
