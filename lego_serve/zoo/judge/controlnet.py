"""Counts how many held-out outline maps the ControlNet follows, with its shapes where the map has them.

The prompts name colours, shapes and the ground but neither places nor sizes, which only the map shows.  The judge of
plain images counts besides whether the shapes are of the right kind and colour.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from lego_serve.zoo.judge.parse import DIFFERENT, PALETTE, nearest_colours
from lego_serve.zoo.judge.prompts import BATCH, Prompt, scene_faults
from lego_serve.zoo.world.captions import vague_caption
from lego_serve.zoo.world.scenes import sample_scenes, to_bytes
from lego_serve.zoo.world.styles import outline_maps

MIN_OVERLAP = 0.6
# Prompts, maps (prompts, 3, side, side) in -1..1 and seeds to images (prompts, side, side, 3) of 8 bits.
GenerateControlled = Callable[[Sequence[str], torch.Tensor, Sequence[int]], np.ndarray]


@dataclass(frozen=True, slots=True)
class MapSet:
    """Held-out scenes of one kind with their maps; ``jitter`` is the random state that jitters them the same way."""

    kind: str
    prompts: list[Prompt]
    maps: torch.Tensor
    jitter: tuple[Any, ...]

    @property
    def images(self) -> np.ndarray:
        """The maps as images (maps, side, side, 3) of 8 bits."""
        images: np.ndarray = to_bytes(self.maps).numpy()
        return images


@dataclass(frozen=True, slots=True)
class MapVerdict:
    """The image of one map and how far it follows it: the intersection over union of their shapes' areas."""

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
        """Return whether the number of things and these attributes of theirs are right."""
        return not {"count", *names} & set(self.faults)


def map_sets(side: int, count: int) -> Iterator[MapSet]:
    """Yield the same maps every time, half of one thing and half of two."""
    for kind, things, set_size in (("one_object", 1, count // 2), ("two_objects", 2, count - count // 2)):
        rng = random.Random(f"judge controlnet {things}")
        scenes = sample_scenes(rng, set_size, things, held_out=True)
        prompts = [Prompt(vague_caption(scene, rng), scene) for scene in scenes]
        jitter = rng.getstate()
        yield MapSet(kind, prompts, outline_maps(scenes, side, side, rng), jitter)


def shapes_mask(pixels: np.ndarray) -> np.ndarray:
    """Return the pixels of an image (height, width, 3) of 8 bits that are not of its ground, the commonest colour."""
    image = pixels.astype(np.float32)
    nearest = nearest_colours(image)
    ground = PALETTE[np.bincount(nearest.ravel(), minlength=len(PALETTE)).argmax()]
    mask: np.ndarray = ndimage.binary_opening(np.linalg.norm(image - ground, axis=-1) > DIFFERENT)
    return mask


def map_mask(control: np.ndarray) -> np.ndarray:
    """Return what the outlines of a map (height, width, 3) of 8 bits enclose, lines included to their middle."""
    lines = control[..., 0] > 127
    inside = ndimage.binary_fill_holes(lines) & ~lines
    # Half of each line belongs to the shape: grow the inside back over it by that much.
    grown: np.ndarray = ndimage.binary_dilation(inside, iterations=max(1, round(0.01 * min(lines.shape))))
    return grown


def overlap_of(pixels: np.ndarray, control: np.ndarray) -> float:
    """Return the intersection over union of an image's shapes and a map's."""
    return intersection_over_union(shapes_mask(pixels), map_mask(control))


def intersection_over_union(drawn: np.ndarray, wanted: np.ndarray) -> float:
    """Return the intersection over union of two masks; 0 where both are empty."""
    return float((drawn & wanted).sum()) / max(1.0, float((drawn | wanted).sum()))


def judge_controlnet(generate: GenerateControlled, sides: Sequence[int], count: int) -> Iterator[MapVerdict]:
    """Draw and judge ``count`` maps of held-out scenes at each side."""
    for side in sides:
        for map_set in map_sets(side, count):
            for first in range(0, len(map_set.prompts), BATCH):
                batch = slice(first, first + BATCH)
                prompts = map_set.prompts[batch]
                seeds = range(first, first + len(prompts))
                images = generate([p.text for p in prompts], map_set.maps[batch], seeds)
                for prompt, control, pixels in zip(prompts, map_set.images[batch], images, strict=True):
                    yield MapVerdict(
                        side=side,
                        kind=map_set.kind,
                        text=prompt.text,
                        control=control,
                        pixels=pixels,
                        overlap=overlap_of(pixels, control),
                        faults=tuple(scene_faults(prompt.scene, pixels)),
                    )


def map_table(verdicts: Sequence[MapVerdict]) -> dict[str, dict[str, dict[str, float]]]:
    """Return by side and kind how many maps are followed, and how many have the right shapes and colours."""
    cells: dict[str, dict[str, list[MapVerdict]]] = {}
    for verdict in verdicts:
        cells.setdefault(str(verdict.side), {}).setdefault(verdict.kind, []).append(verdict)
    return {side: {kind: _counts(cell) for kind, cell in kinds.items()} for side, kinds in cells.items()}


def _counts(verdicts: Sequence[MapVerdict]) -> dict[str, float]:
    return {
        "followed": sum(v.is_followed for v in verdicts),
        "shapes": sum(v.has("shape") for v in verdicts),
        "colours": sum(v.has("colour") for v in verdicts),
        "ground": sum("ground" not in v.faults for v in verdicts),
        "right": sum(v.is_followed and not v.faults for v in verdicts),
        "of": len(verdicts),
        "median_overlap": round(float(np.median([v.overlap for v in verdicts])), 3),
    }
