"""A start-up measurement: what a ControlNet's rows cost on this machine."""

from dataclasses import replace

import torch

from lego_serve.engine.calibration import SAMPLE_TEXT_ROWS, TOKENS_A_SIDE, fastest, sample_lane
from lego_serve.models.base import Backbone, Conditioning
from lego_serve.models.controls import ControlInput, ControlSource


def control_share(backbone: Backbone, source: ControlSource, picture: torch.Tensor, repeats: int = 3) -> float:
    """What a row of a ControlNet costs here relative to a row of the backbone, measured on one guided lane.

    ``picture``: control latents (channels, height, width) of a lane as calibration measures it, or its pixels.
    """
    lane = sample_lane(backbone, TOKENS_A_SIDE[-1])
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randn(SAMPLE_TEXT_ROWS, backbone.text_width, generator=draw)
    cond = source.prepare(
        Conditioning(tokens, torch.randn(backbone.pooled_width, generator=draw)), 0 if source.form.modes else None
    )
    negative = None if lane.negative is None else cond
    control = ControlInput(source, source.picture(picture), 1.0, cond, negative)
    controlled = replace(lane, controls=(control,))
    plain_s = fastest(lambda: backbone.velocity([lane]), repeats)
    return max(0.0, fastest(lambda: backbone.velocity([controlled]), repeats) / plain_s - 1)
