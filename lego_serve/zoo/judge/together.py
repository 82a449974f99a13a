"""Counts how many images keep their style and follow their map where an adapter and the ControlNet work together.

A style paints over things or hides them (white ones on white stripes) and adds what is no thing.  So an image is held
against its own scene rendered in that style: what differs there from the bare styled ground is what the map asks for.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from lego_serve.zoo.judge.controlnet import MIN_OVERLAP, MapSet, map_sets, shared_ratio
from lego_serve.zoo.judge.parse import DIFFERENT, MIN_PURITY, PALETTE
from lego_serve.zoo.judge.prompts import BATCH
from lego_serve.zoo.judge.style import read_style
from lego_serve.zoo.world.scenes import COLOUR_NAMES, Scene
from lego_serve.zoo.world.styles import render_styled, thing_masks


@dataclass(frozen=True, slots=True)
class Setting:
    """A style (or "base" for no adapter), its adapter's scale and the ControlNet's weight."""

    style: str
    scale: float
    weight: float


@dataclass(frozen=True, slots=True)
class Both:
    """One image, judged: the style it was taken for, how its things overlap, and the least share in their colour."""

    setting: Setting
    text: str
    control: np.ndarray
    pixels: np.ndarray
    seen: str
    overlap: float
    coloured_ratio: float

    @property
    def is_styled(self) -> bool:
        """Whether the style is told right."""
        return self.seen == self.setting.style

    @property
    def is_followed(self) -> bool:
        """Whether the things stand where the map has them."""
        return self.overlap >= MIN_OVERLAP

    @property
    def is_coloured(self) -> bool:
        """Whether every thing has mostly the colour that the prompt gives it."""
        return self.coloured_ratio >= MIN_PURITY


@dataclass(frozen=True, slots=True)
class Reference:
    """A scene as its style draws it: the bare ground, and which pixels of each thing can be seen on it."""

    scene: Scene
    bare: np.ndarray
    things: list[np.ndarray]
    is_hollow: bool

    def overlap_of(self, pixels: np.ndarray) -> float:
        """Intersection over union of the things drawn and those wanted; what lines enclose belongs to a thing."""
        apart = ndimage.binary_opening(np.linalg.norm(pixels.astype(np.float32) - self.bare, axis=-1) > DIFFERENT)
        wanted = np.logical_or.reduce(self.things)
        return shared_ratio(_filled(apart), _filled(wanted)) if self.is_hollow else shared_ratio(apart, wanted)

    def coloured_ratio_of(self, pixels: np.ndarray) -> float:
        """The least share of a thing's visible pixels whose nearest colour is its own."""
        nearest = np.linalg.norm(pixels.astype(np.float32)[:, :, None] - PALETTE, axis=-1).argmin(-1)
        pairs = zip(self.scene.things, self.things, strict=True)
        shares = [(nearest[mask] == COLOUR_NAMES.index(t.colour)).mean() for t, mask in pairs if mask.any()]
        return float(min(shares, default=1.0))


# A setting, prompts, maps (prompts, 3, side, side) in -1..1 and seeds to images of 8 bits.
GenerateBoth = Callable[[Setting, Sequence[str], torch.Tensor, Sequence[int]], np.ndarray]


def references(some: MapSet, style: str) -> list[Reference]:
    """What the maps' scenes look like in a style, with the maps' own jitter."""
    scenes = [prompt.scene for prompt in some.prompts]
    side = some.maps.shape[-1]
    bare = render_styled([Scene((), s.ground) for s in scenes], side, side, random.Random(), style)
    grounds = ((bare + 1) * 127.5).permute(0, 2, 3, 1).numpy()
    rng = random.Random()
    rng.setstate(some.jitter)
    found = []
    for scene, ground, masks in zip(scenes, grounds, thing_masks(scenes, side, side, rng, style), strict=True):
        colours = [PALETTE[COLOUR_NAMES.index(t.colour)] for t in scene.things]
        hidden = [np.linalg.norm(ground - colour, axis=-1) <= DIFFERENT for colour in colours]
        visible = [mask & ~under for mask, under in zip(masks, hidden, strict=True)]
        found.append(Reference(scene, ground, visible, style == "outline"))
    return found


def judge_together(generate: GenerateBoth, settings: Sequence[Setting], side: int, count: int) -> Iterator[Both]:
    """Draw the same ``count`` held-out maps in each setting; verdicts come as they are made."""
    for setting in settings:
        for some in map_sets(side, count):
            wanted = references(some, setting.style)
            for at in range(0, len(some.prompts), BATCH):
                texts, asked = [p.text for p in some.prompts[at : at + BATCH]], some.maps[at : at + BATCH]
                images = generate(setting, texts, asked, range(at, at + len(texts)))
                for text, shown, want, pixels in zip(
                    texts, some.shown[at : at + BATCH], wanted[at : at + BATCH], images, strict=True
                ):
                    seen, coloured = read_style(pixels), want.coloured_ratio_of(pixels)
                    yield Both(setting, text, shown, pixels, seen, want.overlap_of(pixels), coloured)


def both_table(verdicts: Sequence[Both]) -> list[dict[str, str | float]]:
    """A row for each setting: how many follow the map, show the style, have the colours, and all three."""
    cells: dict[Setting, list[Both]] = {}
    for verdict in verdicts:
        cells.setdefault(verdict.setting, []).append(verdict)
    return [
        {
            "style": setting.style,
            "scale": setting.scale,
            "weight": setting.weight,
            "followed": sum(v.is_followed for v in some),
            "styled": sum(v.is_styled for v in some),
            "both": sum(v.is_followed and v.is_styled for v in some),
            "coloured": sum(v.is_coloured for v in some),
            "of": len(some),
        }
        for setting, some in cells.items()
    ]


def _filled(mask: np.ndarray) -> np.ndarray:
    """With what its lines enclose; small gaps in them do not matter."""
    around = np.pad(mask, 2)  # a closing takes what lies beyond the edge for empty
    filled: np.ndarray = ndimage.binary_fill_holes(ndimage.binary_closing(around, iterations=2))[2:-2, 2:-2]
    return filled
