"""Pictures whose adapter comes late, as a server with early starts makes them, so many steps and no others."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lego_serve.engine.lanes import AdapterUse, LaneRequest, LaneResult
from lego_serve.engine.local import LocalFamily
from lego_serve.errors import LegoError
from lego_serve.models.lora import Adapter


@dataclass(frozen=True, slots=True)
class Drawn:
    """Pictures of one adapter that came so many steps late: latents, and pixels (count, height, width, 3) of 8 bits."""

    latents: torch.Tensor
    pixels: torch.Tensor


def draw(
    family: LocalFamily,
    adapter: Adapter,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    late: int,
    steps: int = 20,
    side: int = 128,
    guidance: float = 4.0,
) -> Drawn:
    """Draw with an adapter that has come after ``late`` steps: 0 is waiting for it, all of them is without it.

    Raises LegoError.
    """
    # What it changes in text encoders is waited for in either case.
    uses = ((adapter, 1.0),)
    conds = family.text.encode(prompts, uses)
    negative = family.text.encode([""], uses)[0] if family.engine.classifier_free else None
    keys = [str(index) for index in range(len(prompts))]
    for key, cond, seed in zip(keys, conds, seeds, strict=True):
        held = late if late < steps else None
        family.engine.add(LaneRequest(key, side, side, steps, guidance, seed, cond, negative, held_from=held))
    results: dict[str, LaneResult] = {}
    while family.engine.lanes:
        if family.engine.plan() is None:  # all of them wait for it
            for key in keys:
                family.engine.adapt(key, (AdapterUse(adapter),))
        for key, outcome in family.engine.step():
            if isinstance(outcome, LegoError):
                raise outcome
            results[key] = outcome
    latents = torch.stack([results[key].latents for key in keys])
    return Drawn(latents, family.vae.decode(latents))


def cosines(a: torch.Tensor, b: torch.Tensor) -> list[float]:
    """The similarity of each pair of latents."""
    found = torch.nn.functional.cosine_similarity(a.double().flatten(1), b.double().flatten(1))
    return [float(value) for value in found]


def psnrs_db(a: torch.Tensor, b: torch.Tensor) -> list[float]:
    """The peak signal-to-noise ratio of each pair of 8-bit pictures; infinite for equal ones."""
    errors = (a.double() - b.double()).flatten(1).square().mean(dim=1)
    return [float(value) for value in 10 * torch.log10(255.0**2 / errors)]
