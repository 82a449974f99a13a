"""Makers of values many tests need."""

from dataclasses import dataclass

import torch

from lego_serve.engine.lane_state import LaneRequest, LaneResult
from lego_serve.engine.offline import OfflinePipeline
from lego_serve.models.ragged.backbone import Backbone
from lego_serve.models.ragged.conditioning import Conditioning
from lego_serve.models.ragged.lane_input import LaneInput


@dataclass(frozen=True)
class RawLane:
    """A lane as its request has it, before a backbone prepared its prompts."""

    latents: torch.Tensor
    time: float
    guidance: float
    cond: Conditioning
    negative: Conditioning

    @property
    def is_guided(self) -> bool:
        """Whether there is guidance to apply."""
        return self.guidance > 1

    def for_model(self, backbone: Backbone) -> LaneInput:
        """What a backbone is given."""
        negative = backbone.prepare(self.negative) if backbone.uses_cfg and self.is_guided else None
        return LaneInput(self.latents, self.time, self.guidance, backbone.prepare(self.cond), negative)


def run_results(family: OfflinePipeline, *lanes: LaneRequest) -> dict[str, LaneResult]:
    """What becomes of lanes that start together and all end well."""
    for lane in lanes:
        family.engine.add(lane)
    found: dict[str, LaneResult] = {}
    while family.engine.lanes:
        for key, outcome in family.engine.step():
            assert isinstance(outcome, LaneResult), outcome
            found[key] = outcome
    return found


def run_lanes(family: OfflinePipeline, *lanes: LaneRequest) -> dict[str, torch.Tensor]:
    """Their latents."""
    return {key: result.latents for key, result in run_results(family, *lanes).items()}


def raw_lane(
    seed: int,
    height: int = 16,
    width: int = 16,
    guidance: float = 4.0,
    text_rows: int = 7,
    *,
    channels: int = 4,
    text_width: int = 48,
    pooled_width: int = 32,
) -> RawLane:
    """A lane drawn from a seed; height and width in latent pixels."""
    draw = torch.Generator().manual_seed(seed)
    conds = [
        Conditioning(torch.randn(text_rows, text_width, generator=draw), torch.randn(pooled_width, generator=draw))
        for _ in range(2)
    ]
    time = float(torch.rand((), generator=draw))
    return RawLane(torch.randn(channels, height, width, generator=draw), time, guidance, conds[0], conds[1])
