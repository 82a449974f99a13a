"""How late an adapter may come: how many steps on the base alone leave the latents nearly what they would be with it.

A lane with the adapter and one without start from the same noise.  Their latents drift apart step by step, and the
first step after which their cosine similarity is under a limit bounds how long an image may be begun without it.
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
    """What was measured of an adapter; ``similarity`` by step, the least over all prompts and seeds.

    ``first_step`` is the first (from 1) after which it is under ``limit``; None where it never is.  ``ratio`` is the
    part of the steps before that one.
    """

    adapter: str
    sha256: str
    steps: int
    limit: float
    similarity: tuple[float, ...]

    @property
    def first_step(self) -> int | None:
        """The first step after which latents differ too much."""
        return next((i for i, value in enumerate(self.similarity, 1) if not value >= self.limit), None)

    @property
    def ratio(self) -> float:
        """The part of the steps that may pass without the adapter."""
        return ((self.first_step or self.steps) - 1) / self.steps

    def content(self) -> dict[str, object]:
        """The profile as JSON values."""
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
    family: OfflinePipeline,
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
            found = _similarities(family, adapter, prompt, seed, steps, size, guidance)
            worst = [min(pair) for pair in zip(worst, found, strict=True)]
    return Profile(adapter.adapter_id, adapter.sha256, steps, LIMIT, tuple(worst))


def _similarities(
    family: OfflinePipeline, adapter: Adapter, prompt: str, seed: int, steps: int, size: int, guidance: float
) -> list[float]:
    # Prompts are encoded with the adapter in both: an early start waits for what it changes there.
    uses = ((adapter, 1.0),)
    cond = family.text.encode([prompt], uses)[0]
    is_guided = family.engine.uses_cfg and guidance > 1
    negative = family.text.encode([""], uses)[0] if is_guided else None
    lane = LaneRequest("profile", size, size, steps, guidance, seed, cond, negative)
    without, adapted = (_latents(family, replace(lane, adapters=uses)) for uses in ((), (AdapterUse(adapter),)))
    return list(map(_cosine, without, adapted))


def _latents(family: OfflinePipeline, lane: LaneRequest) -> list[torch.Tensor]:
    """A lane's latents after each of its steps."""
    state = family.engine.add(lane)
    found: list[torch.Tensor] = []
    while family.engine.lanes:
        for _, outcome in family.engine.step():
            if isinstance(outcome, LegoError):
                raise outcome
        found.append(state.latents)
    return found


def _cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a.double().flatten(), b.double().flatten(), dim=0))
