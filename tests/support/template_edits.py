"""Edits of one square template by lego-tiny's architecture."""

from dataclasses import replace
from pathlib import Path

import torch

from lego_serve.core.editing.reuse import Quality
from lego_serve.engine.edits import Edit
from lego_serve.engine.lane_state import LaneRequest
from lego_serve.engine.offline import OfflinePipeline
from lego_serve.engine.template_store import Template
from lego_serve.models.registry import ModelSpec
from tests.support import edits

SIZE, STEPS = 128, 5
PROMPT, NEGATIVE = "a red circle on the left", "a blue square"


def with_store(folder: Path, budget_bytes: int, coding: str = "bfloat16") -> OfflinePipeline:
    """The model with so many bytes for templates."""
    return edits.with_store(ModelSpec("m", str(folder), dtype="float32", max_sequence_length=0), budget_bytes, coding)


def mask_of(template: Template, *box: int) -> torch.Tensor:
    """A mask over latent pixels: top, bottom, left and right of a box."""
    mask = torch.zeros(template.latents.shape[1:], dtype=torch.bool)
    top, bottom, left, right = box or (2, 8, 4, 10)
    mask[top:bottom, left:right] = True
    return mask


def lane(
    family: OfflinePipeline,
    template: Template,
    quality: Quality,
    key: str = "edit",
    strength: float = 1.0,
    **changes: object,
) -> LaneRequest:
    """A guided edit whose template is primed with the empty prompt."""
    cond, negative, empty = family.text.encode([PROMPT, NEGATIVE, ""])
    edit = Edit(template, mask_of(template), quality, (empty, empty))
    request = LaneRequest(key, SIZE, SIZE, STEPS, 4.0, 5, cond, negative, strength=strength, edit=edit)
    return replace(request, **changes)  # type: ignore[arg-type]
