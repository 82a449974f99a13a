"""Which scales and weights make sense: ``python -m lego_serve.bench_amounts [--count 20]``.

Held-out prompts with each adapter that comes with lego-tiny at several scales, and held-out outline maps with its
ControlNet at several weights.  Judges say of how many pictures the style shows or the map is followed, and of how many
every colour that the prompt names is still there.
"""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from lego_serve.engine.controls import ControlUse
from lego_serve.engine.lanes import AdapterUse, LaneRequest, LaneResult
from lego_serve.engine.local import LocalFamily
from lego_serve.errors import LegoError
from lego_serve.models.adapter_file import adapter_ids, find_adapter
from lego_serve.models.adapter_loading import base_layers, load_adapter
from lego_serve.models.controlnet import load_controlnet
from lego_serve.models.lora import Adapter
from lego_serve.models.spec import ModelSpec, built_in_folder
from lego_serve.zoo.captions import vague_caption
from lego_serve.zoo.judge import held_out_prompts
from lego_serve.zoo.judge_controlnet import MIN_OVERLAP, overlap_of
from lego_serve.zoo.judge_parse import PALETTE
from lego_serve.zoo.judge_style import read_style
from lego_serve.zoo.world import COLOUR_NAMES, Scene, sample_scenes
from lego_serve.zoo.world_styles import STYLES, outline_maps

SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0)
WEIGHTS = (0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
CONTROLNET = "lego-tiny-outline"
MIN_SHARE = 0.004  # of the pixels, for a colour to be there: a quarter of the thinnest outline of a small thing
STEPS, GUIDANCE = 20, 4.0
console = Console(width=120)


@dataclass(frozen=True, slots=True)
class Row:
    """One adapter's scale or ControlNet's weight: of ``count`` pictures so many show it, and so many their colours."""

    name: str
    amount: float
    shown: int
    coloured: int
    count: int


def adapter_rows(
    family: LocalFamily, adapter: Adapter, style: str, count: int, side: int, steps: int = STEPS
) -> Iterator[Row]:
    """An adapter at each scale."""
    prompts = held_out_prompts(1, count // 2) + held_out_prompts(2, count - count // 2)
    texts, scenes = [prompt.text for prompt in prompts], [prompt.scene for prompt in prompts]
    for scale in SCALES:
        pictures = draw(family, texts, side, steps, adapters=(AdapterUse(adapter, scale),))
        shown = sum(read_style(picture) == style for picture in pictures)
        yield Row(adapter.adapter_id, scale, shown, coloured(pictures, scenes), count)


def control_rows(family: LocalFamily, count: int, side: int, steps: int = STEPS) -> Iterator[Row]:
    """The ControlNet at each weight."""
    rng = random.Random("amounts of control")
    scenes = sample_scenes(rng, count // 2, 1, held_out=True)
    scenes += sample_scenes(rng, count - count // 2, 2, held_out=True)
    texts = [vague_caption(scene, rng) for scene in scenes]
    maps = ((outline_maps(scenes, side, side, rng) + 1) * 127.5).round().byte().permute(0, 2, 3, 1)
    latents = [encoded.mean for encoded in family.vae.encode(maps)]
    for weight in WEIGHTS:
        controls = [ControlUse(CONTROLNET, latent, weight) for latent in latents]
        pictures = draw(family, texts, side, steps, controls=controls)
        followed = sum(overlap_of(p, m) >= MIN_OVERLAP for p, m in zip(pictures, maps.numpy(), strict=True))
        yield Row(CONTROLNET, weight, followed, coloured(pictures, scenes), count)


def draw(
    family: LocalFamily,
    texts: Sequence[str],
    side: int,
    steps: int = STEPS,
    *,
    adapters: tuple[AdapterUse, ...] = (),
    controls: Sequence[ControlUse] | None = None,
) -> np.ndarray:
    """Pictures (texts, side, side, 3) of 8 bits, each with these adapters and a ControlNet of its own.

    Raises LegoError.
    """
    uses = tuple((use.adapter, use.scale) for use in adapters)
    negative = family.text.encode([""], uses)[0]
    for index, cond in enumerate(family.text.encode(texts, uses)):
        own = () if controls is None else (controls[index],)
        lane = LaneRequest(
            str(index), side, side, steps, GUIDANCE, index, cond, negative, controls=own, adapters=adapters
        )
        family.engine.add(lane)
    results: dict[str, LaneResult] = {}
    while family.engine.lanes:
        for key, outcome in family.engine.step():
            if isinstance(outcome, LegoError):
                raise outcome
            results[key] = outcome
    return family.vae.decode(torch.stack([results[str(i)].latents for i in range(len(texts))])).numpy()


def coloured(pictures: np.ndarray, scenes: Sequence[Scene]) -> int:
    """How many pictures have every colour of their scene."""
    return sum(_has_colours(picture, scene) for picture, scene in zip(pictures, scenes, strict=True))


def _has_colours(picture: np.ndarray, scene: Scene) -> bool:
    nearest = np.linalg.norm(picture.astype(np.float32)[:, :, None] - PALETTE, axis=-1).argmin(-1)
    shares = np.bincount(nearest.ravel(), minlength=len(PALETTE)) / nearest.size
    named = {scene.ground, *(thing.colour for thing in scene.things)}
    return all(shares[COLOUR_NAMES.index(name)] >= MIN_SHARE for name in named)


def main(
    count: Annotated[int, typer.Option(min=2, help="Pictures for each amount.")] = 20,
    side: Annotated[int, typer.Option(min=96, help="Width and height.")] = 128,
    to: Annotated[Path | None, typer.Option("--json", help="Also write the rows to this file.")] = None,
) -> None:
    """Try the adapters and the ControlNet that come with lego-tiny at several amounts."""
    torch.set_num_threads(1)
    spec = ModelSpec("lego-tiny", "builtin:lego-tiny", max_sequence_length=0)
    net = load_controlnet(ModelSpec(CONTROLNET, f"builtin:{CONTROLNET}", max_sequence_length=0), spec)
    root, base = built_in_folder("builtin:adapters"), base_layers(spec)
    family = LocalFamily.load(spec, controls={CONTROLNET: net})
    rows = list(control_rows(family, count, side))
    for name in adapter_ids([root]):
        style = name.partition("-")[0]
        if style in STYLES:
            adapter = load_adapter(name, find_adapter(name, [root]), base)
            rows += adapter_rows(family, adapter, style, count, side)
    table = Table("what", "scale or weight", "style shown, or map followed", "named colours there")
    for row in rows:
        table.add_row(row.name, f"{row.amount:g}", f"{row.shown} of {row.count}", f"{row.coloured} of {row.count}")
    console.print(table)
    if to is not None:
        to.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
