"""Counts how many images keep their style and follow their map with an adapter beside the ControlNet.

A style paints over things or hides them (white ones on white stripes) and adds pixels of no thing.  So an image is
compared with its scene rendered in that style: what differs from the bare styled ground is what the map wants.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from lego_serve.zoo.judge.controlnet import MIN_OVERLAP, MapSet, intersection_over_union, map_sets
from lego_serve.zoo.judge.parse import DIFFERENT, MIN_PURITY, PALETTE, nearest_colours
from lego_serve.zoo.judge.prompts import BATCH
from lego_serve.zoo.judge.style import read_style
from lego_serve.zoo.world.scenes import COLOUR_NAMES, Scene
from lego_serve.zoo.world.styles import render_styled, thing_masks


@dataclass(frozen=True, slots=True)
class CombinedSetting:
    """A style (or "base" for no adapter), its adapter's scale and the ControlNet's weight."""

    style: str
    scale: float
    weight: float


@dataclass(frozen=True, slots=True)
class CombinedVerdict:
    """One image: the style that was recognised, its things' overlap, and the least share of a thing in its colour."""

    setting: CombinedSetting
    text: str
    control: np.ndarray
    pixels: np.ndarray
    seen: str
    overlap: float
    coloured_ratio: float

    @property
    def is_styled(self) -> bool:
        """Whether the recognised style is the wanted one."""
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
class StyledReference:
    """A scene as its style draws it: the bare ground, and the visible pixels of each thing."""

    scene: Scene
    bare: np.ndarray
    things: list[np.ndarray]
    is_hollow: bool

    def overlap_of(self, pixels: np.ndarray) -> float:
        """Return the intersection over union of drawn and wanted things; what lines enclose belongs to a thing."""
        apart = ndimage.binary_opening(np.linalg.norm(pixels.astype(np.float32) - self.bare, axis=-1) > DIFFERENT)
        wanted = np.logical_or.reduce(self.things)
        if self.is_hollow:
            apart, wanted = _fill_outlines(apart), _fill_outlines(wanted)
        return intersection_over_union(apart, wanted)

    def coloured_ratio_of(self, pixels: np.ndarray) -> float:
        """Return the least share of a thing's visible pixels whose nearest colour is its own."""
        nearest = nearest_colours(pixels.astype(np.float32))
        pairs = zip(self.scene.things, self.things, strict=True)
        shares = [(nearest[mask] == COLOUR_NAMES.index(t.colour)).mean() for t, mask in pairs if mask.any()]
        return float(min(shares, default=1.0))


# A setting, prompts, maps (prompts, 3, side, side) in -1..1 and seeds to images of 8 bits.
GenerateCombined = Callable[[CombinedSetting, Sequence[str], torch.Tensor, Sequence[int]], np.ndarray]


def styled_references(map_set: MapSet, style: str) -> list[StyledReference]:
    """Return the maps' scenes in a style, with the maps' own jitter."""
    scenes = [prompt.scene for prompt in map_set.prompts]
    side = map_set.maps.shape[-1]
    bare = render_styled([Scene((), s.ground) for s in scenes], side, side, random.Random(), style)
    grounds = ((bare + 1) * 127.5).permute(0, 2, 3, 1).numpy()
    rng = random.Random()
    rng.setstate(map_set.jitter)
    references = []
    for scene, ground, masks in zip(scenes, grounds, thing_masks(scenes, side, side, rng, style), strict=True):
        colours = [PALETTE[COLOUR_NAMES.index(t.colour)] for t in scene.things]
        hidden = [np.linalg.norm(ground - colour, axis=-1) <= DIFFERENT for colour in colours]
        visible = [mask & ~under for mask, under in zip(masks, hidden, strict=True)]
        references.append(StyledReference(scene, ground, visible, style == "outline"))
    return references


def judge_combined(
    generate: GenerateCombined, settings: Sequence[CombinedSetting], side: int, count: int
) -> Iterator[CombinedVerdict]:
    """Draw the same ``count`` held-out maps in each setting; verdicts come as they are made."""
    for setting in settings:
        for map_set in map_sets(side, count):
            references = styled_references(map_set, setting.style)
            for first in range(0, len(map_set.prompts), BATCH):
                batch = slice(first, first + BATCH)
                texts = [prompt.text for prompt in map_set.prompts[batch]]
                images = generate(setting, texts, map_set.maps[batch], range(first, first + len(texts)))
                rows = zip(texts, map_set.images[batch], references[batch], images, strict=True)
                for text, control, reference, pixels in rows:
                    yield CombinedVerdict(
                        setting=setting,
                        text=text,
                        control=control,
                        pixels=pixels,
                        seen=read_style(pixels),
                        overlap=reference.overlap_of(pixels),
                        coloured_ratio=reference.coloured_ratio_of(pixels),
                    )


def combined_table(verdicts: Sequence[CombinedVerdict]) -> list[dict[str, str | float]]:
    """Return a row for each setting: how many follow the map, show the style, do both, and have the colours."""
    cells: dict[CombinedSetting, list[CombinedVerdict]] = {}
    for verdict in verdicts:
        cells.setdefault(verdict.setting, []).append(verdict)
    return [
        {
            "style": setting.style,
            "scale": setting.scale,
            "weight": setting.weight,
            "followed": sum(v.is_followed for v in cell),
            "styled": sum(v.is_styled for v in cell),
            "both": sum(v.is_followed and v.is_styled for v in cell),
            "coloured": sum(v.is_coloured for v in cell),
            "of": len(cell),
        }
        for setting, cell in cells.items()
    ]


def _fill_outlines(mask: np.ndarray) -> np.ndarray:
    """Return the mask with what its lines enclose; small gaps in the lines are closed."""
    around = np.pad(mask, 2)  # a closing takes what lies beyond the edge for empty
    filled: np.ndarray = ndimage.binary_fill_holes(ndimage.binary_closing(around, iterations=2))[2:-2, 2:-2]
    return filled
