"""What an early start costs in quality: ``python -m benchmarks.addons.late_adapters [--count 20]``.

Images whose adapter was waited for, against images whose first steps ran without it: as many steps as its profile
allows, a quarter, half and all of them.  The judge of styles counts the images that still show the style.
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
from lego_serve.models.lora.loading import base_layers, load_adapter
from lego_serve.models.lora.roots import find_adapter
from lego_serve.models.registry import ModelSpec, built_in_folder
from lego_serve.zoo.judge.style import read_style
from lego_serve.zoo.world.captions import caption
from lego_serve.zoo.world.scenes import sample_scenes
from lego_serve.zoo.world.styles import STYLES

PROFILE_PROMPTS, PROFILE_SEEDS = 3, (0, 1)
console = Console(width=120)


@dataclass(frozen=True, slots=True)
class Drawing:
    """Images of one adapter and lateness: latents, and pixels (count, height, width, 3) of 8 bits."""

    latents: torch.Tensor
    pixels: torch.Tensor


def draw(
    pipeline: OfflinePipeline,
    adapter: Adapter,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    late: int,
    steps: int = 20,
    side: int = 128,
    guidance: float = 4.0,
) -> Drawing:
    """Draw with an adapter that takes part from step ``late`` on: 0 is in time, ``steps`` is never.

    Raises LegoError.
    """
    # Text encoding has the adapter in every case, for it always waits.
    uses = ((adapter, 1.0),)
    conds = pipeline.text.encode(prompts, uses)
    negative = pipeline.text.encode([""], uses)[0] if pipeline.engine.uses_cfg else None
    keys = [str(index) for index in range(len(prompts))]
    for key, cond, seed in zip(keys, conds, seeds, strict=True):
        wait_at = late if late < steps else None
        pipeline.engine.add(
            LaneRequest(key, side, side, steps, guidance, seed, cond, negative, wait_for_adapters_at=wait_at)
        )
    results: dict[str, LaneResult] = {}
    while pipeline.engine.lanes:
        if pipeline.engine.plan() is None:  # all lanes wait for the adapter
            for key in keys:
                pipeline.engine.adapt(key, (AdapterUse(adapter),))
        for key, outcome in pipeline.engine.step():
            if isinstance(outcome, LegoError):
                raise outcome
            results[key] = outcome
    latents = torch.stack([results[key].latents for key in keys])
    return Drawing(latents, pipeline.vae.decode(latents))


def cosines(a: torch.Tensor, b: torch.Tensor) -> list[float]:
    """Return the cosine similarity of each pair of latents."""
    similarities = torch.nn.functional.cosine_similarity(a.double().flatten(1), b.double().flatten(1))
    return [float(value) for value in similarities]


def psnrs_db(a: torch.Tensor, b: torch.Tensor) -> list[float]:
    """Return the peak signal-to-noise ratio of each pair of 8-bit images; infinite for equal ones."""
    errors = (a.double() - b.double()).flatten(1).square().mean(dim=1)
    return [float(value) for value in 10 * torch.log10(255.0**2 / errors)]


@dataclass(frozen=True, slots=True)
class Row:
    """One adapter, ``late`` steps late, against itself in time: medians and least values over ``count`` images.

    ``is_bound``: its profile allows so many steps and no more.  ``styled``: the images that show its style.
    """

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
    """Return captions of scenes with one and two things that nothing was trained on; the same ones every time."""
    rng = random.Random("early starts")
    scenes = sample_scenes(rng, count // 2, 1, held_out=True)
    scenes += sample_scenes(rng, count - count // 2, 2, held_out=True)
    return [caption(scene, rng, complete=True) for scene in scenes]


def rows_of(
    pipeline: OfflinePipeline, adapter: Adapter, style: str, count: int, steps: int, side: int
) -> Iterator[Row]:
    """Yield the rows of one adapter."""
    prompts = held_out(count)
    measured = profile(pipeline, adapter, prompts[:PROFILE_PROMPTS], PROFILE_SEEDS, steps=steps, size=side)
    bound = (measured.first_step or steps) - 1
    in_time = draw(pipeline, adapter, prompts, range(count), late=0, steps=steps, side=side)
    for late in sorted({0, bound, steps // 4, steps // 2, steps}):
        drawing = in_time
        if late > 0:
            drawing = draw(pipeline, adapter, prompts, range(count), late=late, steps=steps, side=side)
        similarities = cosines(in_time.latents, drawing.latents)
        psnrs = psnrs_db(in_time.pixels, drawing.pixels)
        yield Row(
            adapter=adapter.adapter_id,
            late=late,
            is_bound=late == bound,
            cosine=median(similarities),
            least_cosine=min(similarities),
            psnr_db=median(psnrs),
            least_psnr_db=min(psnrs),
            styled=sum(read_style(pixels.numpy()) == style for pixels in drawing.pixels),
            count=count,
        )


def main(
    count: Annotated[int, typer.Option(min=2, help="Images for each adapter and lateness.")] = 20,
    steps: Annotated[int, typer.Option(min=4, max=100)] = 20,
    side: Annotated[int, typer.Option(min=96, help="Width and height.")] = 128,
    to: Annotated[Path | None, typer.Option("--json", help="Also write the rows to this file.")] = None,
) -> None:
    """Measure the early start of the adapters that come with lego-tiny."""
    torch.set_num_threads(1)
    spec = ModelSpec("lego-tiny", "builtin:lego-tiny", max_sequence_length=0)
    root, pipeline, base = built_in_folder("builtin:adapters"), OfflinePipeline.load(spec), base_layers(spec)
    rows: list[Row] = []
    for folder in sorted(root.iterdir()):
        style = folder.name.partition("-")[0]
        if style in STYLES:
            adapter = load_adapter(folder.name, find_adapter(folder.name, [root]), base)
            rows += rows_of(pipeline, adapter, style, count, steps, side)
    console.print(_table(rows, steps))
    if to is not None:
        to.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


def _table(rows: Sequence[Row], steps: int) -> Table:
    table = Table("adapter", f"steps late, of {steps}", "cosine (least)", "PSNR dB (least)", "in its style")
    for row in rows:
        late = {0: "0, waited for", steps: f"{steps}, without it"}.get(row.late, str(row.late))
        table.add_row(
            row.adapter,
            f"{late} (its bound)" if row.is_bound else late,
            f"{row.cosine:.4f} ({row.least_cosine:.4f})",
            f"{row.psnr_db:.1f} ({row.least_psnr_db:.1f})",
            f"{row.styled} of {row.count}",
        )
    return table


if __name__ == "__main__":
    typer.run(main)
