"""Counts how many held-out outline maps the ControlNet follows: do the shapes stand where the map has them?

The prompts name colours, shapes and the ground but neither places nor sizes, so that only the map can tell.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from lego_serve.zoo.captions import vague_caption
from lego_serve.zoo.judge import BATCH
from lego_serve.zoo.judge_parse import DIFFERENT, PALETTE
from lego_serve.zoo.world import sample_scenes
from lego_serve.zoo.world_styles import outline_maps

MIN_OVERLAP = 0.6
# Prompts, maps (prompts, 3, side, side) in -1..1 and seeds to pictures (prompts, side, side, 3) of 8 bits.
GenerateControlled = Callable[[Sequence[str], torch.Tensor, Sequence[int]], np.ndarray]


@dataclass(frozen=True, slots=True)
class Follow:
    """One map's picture and how far it follows: intersection over union of their shapes' areas."""

    side: int
    kind: str
    text: str
    control: np.ndarray
    pixels: np.ndarray
    overlap: float

    @property
    def is_followed(self) -> bool:
        """Whether the shapes stand where the map has them."""
        return self.overlap >= MIN_OVERLAP


def shapes_mask(pixels: np.ndarray) -> np.ndarray:
    """Which pixels of a picture (height, width, 3) of 8 bits are not of its ground, the commonest colour."""
    image = pixels.astype(np.float32)
    nearest = np.linalg.norm(image[:, :, None] - PALETTE, axis=-1).argmin(-1)
    ground = PALETTE[np.bincount(nearest.ravel(), minlength=len(PALETTE)).argmax()]
    mask: np.ndarray = ndimage.binary_opening(np.linalg.norm(image - ground, axis=-1) > DIFFERENT)
    return mask


def map_mask(control: np.ndarray) -> np.ndarray:
    """What the outlines of a map (height, width, 3) of 8 bits enclose, lines included to their middle."""
    lines = control[..., 0] > 127
    inside = ndimage.binary_fill_holes(lines) & ~lines
    # Half of each line belongs to the shape: grow the inside back over it by that much.
    grown: np.ndarray = ndimage.binary_dilation(inside, iterations=max(1, round(0.01 * min(lines.shape))))
    return grown


def overlap_of(pixels: np.ndarray, control: np.ndarray) -> float:
    """Intersection over union of a picture's shapes and a map's."""
    drawn, wanted = shapes_mask(pixels), map_mask(control)
    return float((drawn & wanted).sum()) / max(1.0, float((drawn | wanted).sum()))


def judge_controlnet(generate: GenerateControlled, sides: Sequence[int], count: int) -> Iterator[Follow]:
    """Draw and judge ``count`` maps of held-out scenes at each side, half of one thing and half of two."""
    for side in sides:
        for kind, things, many in (("one_object", 1, count // 2), ("two_objects", 2, count - count // 2)):
            rng = random.Random(f"judge controlnet {things}")
            scenes = sample_scenes(rng, many, things, held_out=True)
            texts = [vague_caption(scene, rng) for scene in scenes]
            maps = outline_maps(scenes, side, side, rng)
            for at in range(0, many, BATCH):
                some, control = texts[at : at + BATCH], maps[at : at + BATCH]
                pictures = generate(some, control, range(at, at + len(some)))
                shown = ((control + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
                for text, asked, pixels in zip(some, shown, pictures, strict=True):
                    yield Follow(side, kind, text, asked, pixels, overlap_of(pixels, asked))


def follow_table(follows: Sequence[Follow]) -> dict[str, dict[str, dict[str, float]]]:
    """How many maps are followed of how many, and the median overlap, by side and kind."""
    cells: dict[str, dict[str, list[Follow]]] = {}
    for follow in follows:
        cells.setdefault(str(follow.side), {}).setdefault(follow.kind, []).append(follow)
    return {
        side: {
            kind: {
                "followed": sum(f.is_followed for f in some),
                "of": len(some),
                "median_overlap": round(float(np.median([f.overlap for f in some])), 3),
            }
            for kind, some in kinds.items()
        }
        for side, kinds in cells.items()
    }
