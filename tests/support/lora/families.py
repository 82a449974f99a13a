"""Miniatures whose lanes take adapters, in our parts and in a pipeline of diffusers."""

from pathlib import Path
from typing import Any

import torch
from diffusers import FluxPipeline, StableDiffusion3Pipeline

from lego_serve.core.scheduling.batching import StepBatcher, StepLimits
from lego_serve.core.scheduling.lora_mode import LoraMode
from lego_serve.core.scheduling.ordering import fifo
from lego_serve.engine.lane_state import AdapterUse, LaneRequest, LaneResult
from lego_serve.engine.step_engine import StepEngine
from lego_serve.models.loading import load_backbone, load_text_encoder
from lego_serve.models.lora.adapter import Adapter
from lego_serve.models.lora.loading import base_layers
from lego_serve.models.lora.names import BaseLayers
from lego_serve.models.ragged.backbone import Backbone, TextEncoder
from lego_serve.models.registry import ModelSpec
from lego_serve.models.sampling import FlowMatchTables
from tests.support.lora.adapters import adapter, diffusers_names, products
from tests.support.tiny_models import flux_miniature, miniature

PROMPT, NEGATIVE, STEPS, LENGTH = "a red circle on the left", "a blue square", 4, 8


class Family:
    """A miniature in our parts and, on demand, in diffusers' pipeline."""

    def __init__(self, name: str, folder: Path) -> None:
        self.is_flux = name.startswith("flux")
        (flux_miniature if self.is_flux else miniature)(name).save_pretrained(folder)
        self.folder = folder
        family = "flux" if self.is_flux else "sd3"
        self.spec = ModelSpec("mine", str(folder), family=family, dtype="float32", max_sequence_length=LENGTH)
        self.base: BaseLayers = base_layers(self.spec)
        self.backbone: Backbone
        self.tables: FlowMatchTables
        self.backbone, self.tables = load_backbone(self.spec)
        self.text: TextEncoder = load_text_encoder(self.spec)

    def pipeline(self) -> Any:
        """diffusers' pipeline of it, fresh."""
        kind = FluxPipeline if self.is_flux else StableDiffusion3Pipeline
        loaded = kind.from_pretrained(self.folder, dtype=torch.float32)
        loaded.set_progress_bar_config(disable=True)
        return loaded

    def ask(self, pipeline: Any, seed: int) -> torch.Tensor:
        """The pipeline's latents."""
        guidance: dict[str, Any] = {} if self.is_flux else {"negative_prompt": NEGATIVE}
        out = pipeline(
            PROMPT, width=128, height=128, num_inference_steps=STEPS, guidance_scale=4.0,
            generator=torch.Generator().manual_seed(seed), max_sequence_length=LENGTH, output_type="latent", **guidance,
        ).images  # fmt: skip
        return FluxPipeline._unpack_latents(out, 128, 128, 8)[0] if self.is_flux else out[0]

    def lane(self, key: str, seed: int, *uses: AdapterUse, **more: Any) -> LaneRequest:
        """A lane with adapters, its prompts encoded with them."""
        pairs = tuple((use.adapter, use.scale) for use in uses)
        cond = self.text.encode([PROMPT], pairs)[0]
        negative = None if self.is_flux else self.text.encode([NEGATIVE], pairs)[0]
        settings = {"width": 128, "height": 128, "steps": STEPS, "guidance": 4.0} | more
        return LaneRequest(key, seed=seed, cond=cond, negative=negative, adapters=uses, **settings)

    def engine(self, mode: LoraMode = LoraMode.GROUPED) -> StepEngine:
        """An engine over the one backbone."""
        return StepEngine(self.backbone, self.tables, StepBatcher(fifo, StepLimits(), adapters=mode), lambda: 0.0)

    def adapter(self, seed: int, rank: int = 4, only: str = "", name: str = "") -> Adapter:
        """A random adapter in our form."""
        return adapter(self.base, diffusers_names(products(self.base, seed, rank, only=only)), name or f"a{seed}")


def run(engine: StepEngine, *lanes: LaneRequest) -> dict[str, torch.Tensor]:
    """The latents of lanes run together."""
    for lane in lanes:
        engine.add(lane)
    return rest(engine)


def rest(engine: StepEngine) -> dict[str, torch.Tensor]:
    """What becomes of the lanes in hand."""
    found = {}
    while engine.lanes:
        for key, outcome in engine.step():
            assert isinstance(outcome, LaneResult), outcome
            found[key] = outcome.latents
    return found


def close(mine: torch.Tensor, other: torch.Tensor) -> None:
    """Equal but for the rounding of sums in another order."""
    torch.testing.assert_close(mine, other, atol=3e-4, rtol=3e-4)
