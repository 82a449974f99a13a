"""A whole model in one process, without Ray, for judging and measuring.

It uses the engine and the models of the nodes, but not the nodes' caches, calibrated batches and step limits.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from lego_serve.core.scheduling.batching import StepBatcher, StepLimits
from lego_serve.core.scheduling.ordering import fifo
from lego_serve.core.tiers.grids import Grid
from lego_serve.engine.lane_state import LaneRequest, LaneResult
from lego_serve.engine.step_engine import StepEngine
from lego_serve.errors import LegoError
from lego_serve.models.loading import load_backbone, load_text_encoder, load_vae
from lego_serve.models.ragged.backbone import Backbone, TextEncoder
from lego_serve.models.ragged.controlnet_source import ControlNetSource
from lego_serve.models.registry import ModelSpec
from lego_serve.models.vae import KlVae

DEFAULT_MAX_ROWS = 2048


@dataclass(frozen=True, slots=True)
class OfflinePipeline:
    """Text encoder, engine and autoencoder of one model, and the backbone that the engine runs."""

    text: TextEncoder
    engine: StepEngine
    vae: KlVae
    backbone: Backbone

    @classmethod
    def load(
        cls, spec: ModelSpec, max_rows: int = DEFAULT_MAX_ROWS, controls: Mapping[str, ControlNetSource] | None = None
    ) -> "OfflinePipeline":
        """Load the components of a model, and take its ControlNets by name.  Raises CheckpointError."""
        backbone, tables = load_backbone(spec)
        batcher = StepBatcher(fifo, StepLimits(max_rows=max_rows))
        engine = StepEngine(backbone, tables, batcher, time.monotonic, controls)
        return cls(load_text_encoder(spec), engine, load_vae(spec), backbone)

    def generate(
        self,
        prompts: Sequence[str],
        *,
        width: int = 128,
        height: int = 128,
        steps: int = 20,
        guidance: float = 4.0,
        seeds: Sequence[int],
        negative: str | None = None,
        grid: Grid | None = None,
    ) -> torch.Tensor:
        """Return images (prompts, height, width, 3) of 8 bits.  Raises the error of the first lane that fails.

        Without ``negative`` a model whose guidance needs one gets the empty prompt.  On a ``grid`` its steps are run.
        """
        conds = self.text.encode(prompts)
        if negative is None and self.engine.uses_cfg:
            negative = ""
        unconditional = self.text.encode([negative])[0] if negative is not None and guidance > 1 else None
        for index, (cond, seed) in enumerate(zip(conds, seeds, strict=True)):
            size = width, height
            self.engine.add(LaneRequest(str(index), *size, steps, guidance, seed, cond, unconditional, grid=grid))
        results: dict[str, LaneResult] = {}
        while self.engine.lanes:
            for key, outcome in self.engine.step():
                if isinstance(outcome, LegoError):
                    raise outcome
                results[key] = outcome
        return self.vae.decode(torch.stack([results[str(i)].latents for i in range(len(prompts))]))
