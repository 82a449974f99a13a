"""Counts how many held-out outline maps the ControlNet follows: do the shapes stand where the map has them?

The prompts name colours, shapes and the ground but neither places nor sizes, so that only the map can tell.  Whether
the shapes are of the right kind and colour is counted beside it, by the judge of plain images.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from lego_serve.zoo.judge.parse import DIFFERENT, PALETTE
from lego_serve.zoo.judge.prompts import BATCH, Prompt, scene_faults
from lego_serve.zoo.world.captions import vague_caption
from lego_serve.zoo.world.scenes import sample_scenes
from lego_serve.zoo.world.styles import outline_maps

MIN_OVERLAP = 0.6
# Prompts, maps (prompts, 3, side, side) in -1..1 and seeds to images (prompts, side, side, 3) of 8 bits.
GenerateControlled = Callable[[Sequence[str], torch.Tensor, Sequence[int]], np.ndarray]


@dataclass(frozen=True, slots=True)
class MapSet:
    """Held-out scenes of one kind with their maps; ``jitter`` is the state of random that draws them again alike."""

    kind: str
    prompts: list[Prompt]
    maps: torch.Tensor
    jitter: tuple[Any, ...]

    @property
    def shown(self) -> np.ndarray:
        """The maps as images (maps, side, side, 3) of 8 bits."""
        images: np.ndarray = ((self.maps + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
        return images


@dataclass(frozen=True, slots=True)
class Follow:
    """One map's image and how far it follows: intersection over union of their shapes' areas."""

    side: int
    kind: str
    text: str
    control: np.ndarray
    pixels: np.ndarray
    overlap: float
    faults: tuple[str, ...]

    @property
    def is_followed(self) -> bool:
        """Whether the shapes stand where the map has them."""
        return self.overlap >= MIN_OVERLAP

    def has(self, *names: str) -> bool:
        """Whether there are as many things as asked for, and these attributes of theirs are right."""
        return not {"count", *names} & set(self.faults)


def map_sets(side: int, count: int) -> Iterator[MapSet]:
    """The same maps every time, half of one thing and half of two."""
    for kind, things, many in (("one_object", 1, count // 2), ("two_objects", 2, count - count // 2)):
        rng = random.Random(f"judge controlnet {things}")
        scenes = sample_scenes(rng, many, things, held_out=True)
        prompts = [Prompt(vague_caption(scene, rng), scene) for scene in scenes]
        jitter = rng.getstate()
        yield MapSet(kind, prompts, outline_maps(scenes, side, side, rng), jitter)


def shapes_mask(pixels: np.ndarray) -> np.ndarray:
    """Which pixels of an image (height, width, 3) of 8 bits are not of its ground, the commonest colour."""
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
    """Intersection over union of an image's shapes and a map's."""
    return shared_ratio(shapes_mask(pixels), map_mask(control))


def shared_ratio(drawn: np.ndarray, wanted: np.ndarray) -> float:
    """Intersection over union of two masks."""
    return float((drawn & wanted).sum()) / max(1.0, float((drawn | wanted).sum()))


def judge_controlnet(generate: GenerateControlled, sides: Sequence[int], count: int) -> Iterator[Follow]:
    """Draw and judge ``count`` maps of held-out scenes at each side."""
    for side in sides:
        for some in map_sets(side, count):
            for at in range(0, len(some.prompts), BATCH):
                prompts, shown = some.prompts[at : at + BATCH], some.shown[at : at + BATCH]
                seeds = range(at, at + len(prompts))
                images = generate([p.text for p in prompts], some.maps[at : at + BATCH], seeds)
                for prompt, asked, pixels in zip(prompts, shown, images, strict=True):
                    wrong = tuple(scene_faults(prompt.scene, pixels))
                    yield Follow(side, some.kind, prompt.text, asked, pixels, overlap_of(pixels, asked), wrong)


def follow_table(follows: Sequence[Follow]) -> dict[str, dict[str, dict[str, float]]]:
    """How many maps are followed of how many, how many have the right shapes and colours, by side and kind."""
    cells: dict[str, dict[str, list[Follow]]] = {}
    for follow in follows:
        cells.setdefault(str(follow.side), {}).setdefault(follow.kind, []).append(follow)
    return {side: {kind: _counts(some) for kind, some in kinds.items()} for side, kinds in cells.items()}


def _counts(some: Sequence[Follow]) -> dict[str, float]:
    return {
        "followed": sum(f.is_followed for f in some),
        "shapes": sum(f.has("shape") for f in some),
        "colours": sum(f.has("colour") for f in some),
        "ground": sum("ground" not in f.faults for f in some),
        "right": sum(f.is_followed and not f.faults for f in some),
        "of": len(some),
        "median_overlap": round(float(np.median([f.overlap for f in some])), 3),
    }
