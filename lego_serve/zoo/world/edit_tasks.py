"""Edits whose outcome a judge can tell: one thing of a template is to become another, in its place."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from lego_serve.zoo.judge.prompts import Prompt
from lego_serve.zoo.world.captions import caption
from lego_serve.zoo.world.scenes import (
    COLOUR_NAMES,
    DIAMETER_RATIO,
    JITTER_RATIO,
    SHAPES,
    Scene,
    place_centre,
    render,
    sample_scenes,
)

MARGIN_RATIO = 0.03  # of the shorter side, around the largest thing that may stand in a place


@dataclass(frozen=True, slots=True)
class EditTask:
    """A template as it is and in words, and what it is to become where ``mask`` (height, width) is true.

    ``another`` is what some other edit of the template might ask for.
    """

    template: torch.Tensor  # (height, width, 3) of 8 bits
    before: Prompt
    after: Prompt
    another: Prompt
    mask: torch.Tensor


def held_out_edits(count: int, side: int) -> list[EditTask]:
    """The same edits every time; training saw neither what they begin with nor what they are to end with."""
    rng, others = random.Random(f"edits {side}"), random.Random(f"other edits {side}")
    tasks: list[EditTask] = []
    while len(tasks) < count:
        [scene] = sample_scenes(rng, 1, 1, held_out=True)
        changed = _changed(scene, rng)
        if not changed.is_held_out:
            continue
        image = ((render([scene], side, side, rng)[0].permute(1, 2, 0) + 1) * 127.5).round().to(torch.uint8)
        before, after = (Prompt(caption(each, rng, complete=True), each) for each in (scene, changed))
        other = _changed(scene, others)
        another = Prompt(caption(other, others, complete=True), other)
        tasks.append(EditTask(image, before, after, another, place_mask(scene.things[0].place, side)))
    return tasks


def place_mask(place: str, side: int) -> torch.Tensor:
    """A box around whatever may stand in a place of a square image."""
    x, y = place_centre(place, side, side)
    reach = side * (max(DIAMETER_RATIO.values()) / 2 + JITTER_RATIO + MARGIN_RATIO)
    mask = torch.zeros(side, side, dtype=torch.bool)
    top, bottom, left, right = (round(v) for v in (y - reach, y + reach, x - reach, x + reach))
    mask[max(0, top) : bottom, max(0, left) : right] = True
    return mask


def latent_mask(mask: torch.Tensor, pixels_per_latent: int) -> torch.Tensor:
    """The latent pixels a mask over pixels touches."""
    height, width = (side // pixels_per_latent for side in mask.shape)
    return mask.view(height, pixels_per_latent, width, pixels_per_latent).any(dim=3).any(dim=1)


def _changed(scene: Scene, rng: random.Random) -> Scene:
    """The scene with another thing in the place of its own: colour and shape are both others."""
    [thing] = scene.things
    colours: Sequence[str] = [c for c in COLOUR_NAMES if c not in (scene.ground, thing.colour)]
    shapes = [s for s in SHAPES if s != thing.shape]
    other = replace(thing, colour=rng.choice(colours), shape=rng.choice(shapes))
    return replace(scene, things=(other,))
