"""Miniature transformers as diffusers has them, and what tests read of their backbones."""

from dataclasses import replace
from typing import Any

import torch
from diffusers import DPMSolverMultistepScheduler, FluxTransformer2DModel, SD3Transformer2DModel

from lego_serve.models.ragged.activations import ACTIVATION_CODECS, Activations, Rows
from lego_serve.models.ragged.backbone import Backbone
from lego_serve.models.ragged.lane_input import LaneInput

SD3_FORMS = {
    "lego-tiny": {"qk_norm": "rms_norm", "dual_attention_layers": ()},
    "SD3-medium": {"qk_norm": None, "dual_attention_layers": ()},
    "SD3.5-medium": {"qk_norm": "rms_norm", "dual_attention_layers": (0, 1)},
}


TEXT_WIDTH, POOLED_WIDTH = 48, 32


def sd3_transformer(form: str) -> SD3Transformer2DModel:
    """A miniature with weights that hide nothing (adaLN starts at zero otherwise)."""
    torch.manual_seed(0)
    module = SD3Transformer2DModel(
        sample_size=16, patch_size=2, in_channels=4, out_channels=4, num_layers=3, attention_head_dim=16,
        num_attention_heads=4, joint_attention_dim=TEXT_WIDTH, caption_projection_dim=64,
        pooled_projection_dim=POOLED_WIDTH, pos_embed_max_size=16, **SD3_FORMS[form],
    )  # fmt: skip
    for weight in module.parameters():
        weight.data.add_(torch.randn_like(weight) * 0.1)
    return module.eval()


FLUX_FORMS = {"FLUX.1-dev": True, "FLUX.1-schnell": False}


def flux_transformer(form: str) -> FluxTransformer2DModel:
    """A miniature with weights that hide nothing."""
    torch.manual_seed(0)
    module = FluxTransformer2DModel(
        in_channels=16, num_layers=2, num_single_layers=3, attention_head_dim=16, num_attention_heads=4,
        joint_attention_dim=48, pooled_projection_dim=32, guidance_embeds=FLUX_FORMS[form], axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    for weight in module.parameters():
        weight.data.add_(torch.randn_like(weight) * 0.1)
    return module.eval()


def captured(
    model: Backbone, lane: LaneInput, coding: str = "float32"
) -> tuple[torch.Tensor, Activations, Activations]:
    """A guided lane's velocity, and what both its branches leave behind."""
    assert lane.negative is not None
    kept = [Activations(ACTIVATION_CODECS[coding], keeps_text=True) for _ in "cn"]
    halves = [
        replace(lane, negative=None, capture=kept[0]),
        replace(lane, cond=lane.negative, negative=None, capture=kept[1]),
    ]
    velocity = model.velocity([lane, *halves])[0]
    return velocity, kept[0], kept[1]


def rows_at(rows: Rows, attention_id: str, heads: int = 3, width: int = 16) -> torch.Tensor:
    """The image rows at an attention."""
    image_rows, _ = rows.lengths(attention_id)
    into = torch.empty(image_rows, 2, heads, width)
    rows.read(attention_id, into)
    return into


def tokens_of(velocity: torch.Tensor, patch: int = 2) -> torch.Tensor:
    """(channels, height, width) to (tokens, numbers)."""
    c, h, w = velocity.shape
    return velocity.view(c, h // patch, patch, w // patch, patch).permute(1, 3, 0, 2, 4).reshape(-1, c * patch * patch)


def solver(config: dict[str, Any]) -> DPMSolverMultistepScheduler:
    """DPM++ 2M as a user of diffusers sets it up for flow matching."""
    return DPMSolverMultistepScheduler(
        use_flow_sigmas=True,
        prediction_type="flow_prediction",
        flow_shift=config.get("shift", 1.0),
        use_dynamic_shifting=config.get("use_dynamic_shifting", False),
        time_shift_type="exponential",
    )
