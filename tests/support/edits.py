"""Edits for tests: a model with room for templates, templates of noise, masks that fit no grid."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from lego_serve.core.editing.edit import EditLatents
from lego_serve.core.editing.reuse import Quality, ReuseStats
from lego_serve.core.nodes.messages import DenoiseInput, EncodeEditOutput, TextEncodeOutput
from lego_serve.core.scheduling.batching import StepBatcher, StepLimits
from lego_serve.core.scheduling.ordering import fifo
from lego_serve.engine.edits import Edit
from lego_serve.engine.lane_state import LaneRequest, LaneResult
from lego_serve.engine.offline import OfflinePipeline
from lego_serve.engine.step_engine import StepEngine
from lego_serve.engine.template_store import Template, TemplateStore
from lego_serve.models.loading import load_backbone
from lego_serve.models.registry import ModelSpec
from tests.support.builders import run_results

WIDTH, HEIGHT, STEPS, GUIDANCE = 128, 96, 5, 4.0
ROOM = 64 * 2**20


def with_store(spec: ModelSpec, budget_bytes: int = ROOM, coding: str = "bfloat16") -> OfflinePipeline:
    """A model with so many bytes for templates."""
    backbone, tables = load_backbone(spec)
    store = TemplateStore(budget_bytes, lambda: 0.0, coding)
    engine = StepEngine(backbone, tables, StepBatcher(fifo, StepLimits(max_rows=4096)), lambda: 0.0, templates=store)
    return replace(OfflinePipeline.load(spec), engine=engine)


def template(family: OfflinePipeline, seed: int = 1, own: int = 77) -> Template:
    """An image of noise, encoded, whose own noise is of the seed ``own``."""
    draw = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (1, HEIGHT, WIDTH, 3), generator=draw, dtype=torch.uint8)
    return Template.of(family.vae.encode(image)[0].mean, own)


def uneven(of: Template) -> torch.Tensor:
    """A mask over latent pixels: a box off the grid of tokens, and a pixel by itself."""
    mask = torch.zeros(of.latents.shape[1:], dtype=torch.bool)
    mask[3:8, 5:10] = True
    mask[9, 1] = True
    return mask


def rows_of(mask: torch.Tensor) -> int:
    """The tokens, two latent pixels a side, that it touches."""
    height, width = mask.shape
    return int(mask.view(height // 2, 2, width // 2, 2).any(dim=3).any(dim=1).sum())


def edit_lane(
    family: OfflinePipeline, of: Template, quality: Quality, prompts: tuple[str, str | None], **changes: object
) -> LaneRequest:
    """An edit under a prompt, and a negative one where the model takes any, primed with the empty prompt."""
    prompt, negative = (None if p is None else family.text.encode([p])[0] for p in prompts)
    [empty] = family.text.encode([""])
    assert prompt is not None
    edit = Edit(of, uneven(of), quality, (empty, empty if negative is None else negative))
    lane = LaneRequest("edit", WIDTH, HEIGHT, STEPS, GUIDANCE, 5, prompt, negative, edit=edit)
    return replace(lane, **changes)  # type: ignore[arg-type]


def made(family: OfflinePipeline, *lanes: LaneRequest) -> torch.Tensor:
    """The latents of the last of them."""
    return run_results(family, *lanes)[lanes[-1].key].latents


def read(result: LaneResult) -> ReuseStats:
    """What an edit says it read."""
    assert result.reuse is not None
    return result.reuse


def edit_request(seed: int, **more: Any) -> DenoiseInput:
    """An edit of an image drawn from a seed, at 96 x 96 pixels."""
    draw = np.random.default_rng(seed)
    mask = np.zeros((12, 12), dtype=bool)
    mask[2:5, 3:6] = True
    edit = EditLatents(draw.standard_normal((8, 12, 12), np.float32), mask, Quality.HIGH, f"t{seed}", 0.2)
    words = {
        name: TextEncodeOutput(draw.standard_normal((9, 192), np.float32), draw.standard_normal(192, np.float32))
        for name in ("cond", "negative", "prime")
    }
    fields: dict[str, Any] = {"width": 96, "height": 96, "steps": 4, "guidance": 4.0, "seed": 1, "n": 1}
    return DenoiseInput(**words | fields | {"edit": EncodeEditOutput(edit)} | more)
