"""Edits that a judge can check: one thing of a template is to become another, in the same place."""

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
    to_bytes,
)

MARGIN_RATIO = 0.03  # of the shorter side, around the largest thing that may stand in a place


@dataclass(frozen=True, slots=True)
class EditTask:
    """A template with its caption, and what it is to become where ``mask`` (height, width) is true.

    ``another`` is the prompt of some other edit of the template.
    """

    template: torch.Tensor  # (height, width, 3) of 8 bits
    before: Prompt
    after: Prompt
    another: Prompt
    mask: torch.Tensor


def held_out_edits(count: int, side: int) -> list[EditTask]:
    """Return the same edits every time; training saw neither their templates nor their results."""
    rng, others = random.Random(f"edits {side}"), random.Random(f"other edits {side}")
    tasks: list[EditTask] = []
    while len(tasks) < count:
        [scene] = sample_scenes(rng, 1, 1, held_out=True)
        changed = _change_thing(scene, rng)
        if not changed.is_held_out:
            continue
        [image] = to_bytes(render([scene], side, side, rng))
        before = Prompt(caption(scene, rng, complete=True), scene)
        after = Prompt(caption(changed, rng, complete=True), changed)
        other = _change_thing(scene, others)
        another = Prompt(caption(other, others, complete=True), other)
        tasks.append(EditTask(image, before, after, another, place_mask(scene.things[0].place, side)))
    return tasks


def place_mask(place: str, side: int) -> torch.Tensor:
    """Return a box (side, side) around the largest thing that may stand in a place of a square image."""
    x, y = place_centre(place, side, side)
    reach = side * (max(DIAMETER_RATIO.values()) / 2 + JITTER_RATIO + MARGIN_RATIO)
    mask = torch.zeros(side, side, dtype=torch.bool)
    top, bottom, left, right = (round(v) for v in (y - reach, y + reach, x - reach, x + reach))
    mask[max(0, top) : bottom, max(0, left) : right] = True
    return mask


def latent_mask(mask: torch.Tensor, pixels_per_latent: int) -> torch.Tensor:
    """Return the latent pixels that a mask over pixels touches."""
    height, width = (side // pixels_per_latent for side in mask.shape)
    return mask.view(height, pixels_per_latent, width, pixels_per_latent).any(dim=3).any(dim=1)


def _change_thing(scene: Scene, rng: random.Random) -> Scene:
    """Return the scene with a thing of another colour and shape in the place of its own."""
    [thing] = scene.things
    colours: Sequence[str] = [c for c in COLOUR_NAMES if c not in (scene.ground, thing.colour)]
    shapes = [s for s in SHAPES if s != thing.shape]
    other = replace(thing, colour=rng.choice(colours), shape=rng.choice(shapes))
    return replace(scene, things=(other,))
