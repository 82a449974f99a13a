"""Lanes with a ControlNet, and an engine for them."""

from typing import Any

import torch

from lego_serve.core.scheduling.batching import StepBatcher, StepLimits
from lego_serve.core.scheduling.ordering import fifo
from lego_serve.engine.controlnets import ControlNetUse
from lego_serve.engine.lane_state import LaneRequest, LaneResult
from lego_serve.engine.step_engine import StepEngine
from lego_serve.errors import LegoError
from lego_serve.models.ragged.backbone import Backbone
from lego_serve.models.ragged.conditioning import Conditioning
from lego_serve.models.ragged.controlnet_source import ControlNetSource
from lego_serve.models.sampling import FlowMatchTables

WIDTH, CHANNELS, TEXT_ROWS, TOKENS = 128, 8, 9, 42


def engine_of(model: tuple[Backbone, FlowMatchTables], **controls: ControlNetSource) -> StepEngine:
    """An engine with ControlNets."""
    ticks = iter(range(10**6))
    return StepEngine(*model, StepBatcher(fifo, StepLimits(float("inf"))), lambda: float(next(ticks)), controls)


def use(controlnet: str = "net", **more: Any) -> ControlNetUse:
    """A use with an image drawn at random, for 96 x 112 pixels."""
    draw = torch.Generator().manual_seed(3)
    return ControlNetUse(controlnet, torch.randn(CHANNELS, 14, 12, generator=draw), **more)


def request(key: str, *uses: ControlNetUse, **more: Any) -> LaneRequest:
    """A lane of five steps, guided."""
    draw = torch.Generator().manual_seed(len(key))
    conds = [Conditioning(torch.randn(TEXT_ROWS, 192, generator=draw), torch.randn(192, generator=draw)) for _ in "cn"]
    settings = {"width": 96, "height": 112, "steps": 5, "guidance": 4.0, "seed": 1} | more
    return LaneRequest(key=key, cond=conds[0], negative=conds[1], controls=uses, **settings)


def finish(engine: StepEngine, *requests: LaneRequest) -> dict[str, LaneResult | LegoError]:
    """What becomes of lanes."""
    for one in requests:
        engine.add(one)
    found: dict[str, LaneResult | LegoError] = {}
    while engine.lanes:
        found |= dict(engine.step())
    return found


def latents(outcome: LaneResult | LegoError) -> torch.Tensor:
    """Of a lane that ended well."""
    assert isinstance(outcome, LaneResult), outcome
    return outcome.latents
