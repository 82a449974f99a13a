"""What an early start costs in quality: ``python -m benchmarks.addons.late_adapters [--count 20]``.

The images of an adapter that was waited for, against those begun without it: by its profile's bound, and by a
quarter, half and all of the steps.  The judge of styles says of how many the style still shows.
"""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from lego_serve.engine.adapter_profile import profile
from lego_serve.engine.lane_state import AdapterUse, LaneRequest, LaneResult
from lego_serve.engine.offline import OfflinePipeline
from lego_serve.errors import LegoError
from lego_serve.models.lora.adapter import Adapter
from lego_serve.models.lora.checkpoint import find_adapter
from lego_serve.models.lora.loading import base_layers, load_adapter
from lego_serve.models.registry import ModelSpec, built_in_folder
from lego_serve.zoo.judge.style import read_style
from lego_serve.zoo.world.captions import caption
from lego_serve.zoo.world.scenes import sample_scenes
from lego_serve.zoo.world.styles import STYLES


@dataclass(frozen=True, slots=True)
class Drawn:
    """Images of one adapter that came so many steps late: latents, and pixels (count, height, width, 3) of 8 bits."""

    latents: torch.Tensor
    pixels: torch.Tensor


def draw(
    family: OfflinePipeline,
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
    negative = family.text.encode([""], uses)[0] if family.engine.uses_cfg else None
    keys = [str(index) for index in range(len(prompts))]
    for key, cond, seed in zip(keys, conds, seeds, strict=True):
        held = late if late < steps else None
        family.engine.add(
            LaneRequest(key, side, side, steps, guidance, seed, cond, negative, wait_for_adapters_at=held)
        )
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
    """The peak signal-to-noise ratio of each pair of 8-bit images; infinite for equal ones."""
    errors = (a.double() - b.double()).flatten(1).square().mean(dim=1)
    return [float(value) for value in 10 * torch.log10(255.0**2 / errors)]


PROFILE_PROMPTS, PROFILE_SEEDS = 3, (0, 1)
console = Console(width=120)


@dataclass(frozen=True, slots=True)
class Row:
    """One adapter, so many steps late, against itself in time; ``styled`` of ``count`` images show its style."""

    adapter: str
    late: int
    is_bound: bool
    cosine: float
    least_cosine: float
    psnr_db: float
    least_psnr_db: float
    styled: int
    count: int


def held_out(count: int) -> list[str]:
    """Captions of one and two things that nothing was trained on; the same every time."""
    rng = random.Random("early starts")
    scenes = sample_scenes(rng, count // 2, 1, held_out=True)
    scenes += sample_scenes(rng, count - count // 2, 2, held_out=True)
    return [caption(scene, rng, complete=True) for scene in scenes]


def rows_of(family: OfflinePipeline, adapter: Adapter, style: str, count: int, steps: int, side: int) -> Iterator[Row]:
    """Measure one adapter."""
    prompts = held_out(count)
    found = profile(family, adapter, prompts[:PROFILE_PROMPTS], PROFILE_SEEDS, steps=steps, size=side)
    bound = (found.first_step or steps) - 1
    waited = draw(family, adapter, prompts, range(count), late=0, steps=steps, side=side)
    for late in sorted({0, bound, steps // 4, steps // 2, steps}):
        drawn = waited if late == 0 else draw(family, adapter, prompts, range(count), late=late, steps=steps, side=side)
        yield _row(adapter.adapter_id, late, late == bound, waited, drawn, style)


def _row(name: str, late: int, is_bound: bool, waited: Drawn, drawn: Drawn, style: str) -> Row:
    alike, noise = cosines(waited.latents, drawn.latents), psnrs_db(waited.pixels, drawn.pixels)
    styled = sum(read_style(pixels.numpy()) == style for pixels in drawn.pixels)
    return Row(name, late, is_bound, median(alike), min(alike), median(noise), min(noise), styled, len(alike))


def main(
    count: Annotated[int, typer.Option(min=2, help="Images for each adapter and lateness.")] = 20,
    steps: Annotated[int, typer.Option(min=4, max=100)] = 20,
    side: Annotated[int, typer.Option(min=96, help="Width and height.")] = 128,
    to: Annotated[Path | None, typer.Option("--json", help="Also write the rows to this file.")] = None,
) -> None:
    """Measure the early start of the adapters that come with lego-tiny."""
    torch.set_num_threads(1)
    spec = ModelSpec("lego-tiny", "builtin:lego-tiny", max_sequence_length=0)
    root, family, base = built_in_folder("builtin:adapters"), OfflinePipeline.load(spec), base_layers(spec)
    rows: list[Row] = []
    for folder in sorted(root.iterdir()):
        style = folder.name.partition("-")[0]
        if style in STYLES:
            adapter = load_adapter(folder.name, find_adapter(folder.name, [root]), base)
            rows += rows_of(family, adapter, style, count, steps, side)
    console.print(_table(rows, steps))
    if to is not None:
        to.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


def _table(rows: Sequence[Row], steps: int) -> Table:
    table = Table("adapter", f"steps late, of {steps}", "cosine (least)", "PSNR dB (least)", "in its style")
    for row in rows:
        late = "0, waited for" if row.late == 0 else f"{row.late}, without it" if row.late == steps else str(row.late)
        table.add_row(
            row.adapter,
            late + (" (its bound)" if row.is_bound else ""),
            f"{row.cosine:.4f} ({row.least_cosine:.4f})",
            f"{row.psnr_db:.1f} ({row.least_psnr_db:.1f})",
            f"{row.styled} of {row.count}",
        )
    return table


if __name__ == "__main__":
    typer.run(main)
