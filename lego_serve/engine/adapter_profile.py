"""Measures how many steps without an adapter leave the latents nearly as they are with it.

A lane with the adapter and one without start from the same noise.  Their latents drift apart step by step; the first
step after which their cosine similarity is under a limit bounds how many steps may run before the adapter has loaded.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from lego_serve.engine.lane_state import AdapterUse, LaneRequest
from lego_serve.engine.offline import OfflinePipeline
from lego_serve.errors import LegoError
from lego_serve.models.lora.adapter import Adapter

LIMIT = 0.99


@dataclass(frozen=True, slots=True)
class Profile:
    """The measured profile of an adapter; ``similarity`` by step, the least over all prompts and seeds."""

    adapter: str
    sha256: str
    steps: int
    limit: float
    similarity: tuple[float, ...]

    @property
    def first_step(self) -> int | None:
        """The first step, from 1, after which the similarity is under ``limit``; None where it never is."""
        return next((i for i, value in enumerate(self.similarity, 1) if not value >= self.limit), None)

    @property
    def ratio(self) -> float:
        """The part of the steps that may run without the adapter: those before ``first_step``."""
        return ((self.first_step or self.steps) - 1) / self.steps

    def content(self) -> dict[str, object]:
        """Return the profile as JSON values."""
        return {
            "adapter": self.adapter,
            "sha256": self.sha256,
            "steps": self.steps,
            "limit": self.limit,
            "first_step": self.first_step,
            "ratio": self.ratio,
            "similarity": [round(value, 6) for value in self.similarity],
        }


def profile(
    pipeline: OfflinePipeline,
    adapter: Adapter,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    steps: int = 20,
    size: int = 128,
    guidance: float = 4.0,
) -> Profile:
    """Measure an adapter at scale 1.  Raises LegoError."""
    worst = [1.0] * steps
    for prompt in prompts:
        for seed in seeds:
            similarities = _similarities(pipeline, adapter, prompt, seed, steps, size, guidance)
            worst = [min(pair) for pair in zip(worst, similarities, strict=True)]
    return Profile(adapter.adapter_id, adapter.sha256, steps, LIMIT, tuple(worst))


def _similarities(
    pipeline: OfflinePipeline, adapter: Adapter, prompt: str, seed: int, steps: int, size: int, guidance: float
) -> list[float]:
    # Both prompts are encoded with the adapter: text encoding always waits for it, only denoising does not.
    uses = ((adapter, 1.0),)
    cond = pipeline.text.encode([prompt], uses)[0]
    is_guided = pipeline.engine.uses_cfg and guidance > 1
    negative = pipeline.text.encode([""], uses)[0] if is_guided else None
    lane = LaneRequest("profile", size, size, steps, guidance, seed, cond, negative)
    without, adapted = (_latents(pipeline, replace(lane, adapters=uses)) for uses in ((), (AdapterUse(adapter),)))
    return list(map(_cosine, without, adapted))


def _latents(pipeline: OfflinePipeline, lane: LaneRequest) -> list[torch.Tensor]:
    """Run a lane; return its latents after each step."""
    state = pipeline.engine.add(lane)
    latents: list[torch.Tensor] = []
    while pipeline.engine.lanes:
        for _, outcome in pipeline.engine.step():
            if isinstance(outcome, LegoError):
                raise outcome
        latents.append(state.latents)
    return latents


def _cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a.double().flatten(), b.double().flatten(), dim=0))
