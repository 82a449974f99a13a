"""Draws scenes as the world does that the shipped model was trained in: smooth shapes, lengths in shares of a side."""

from functools import lru_cache

import numpy as np

from loadgen.edits.scenes import COLOURS, Scene, Thing, middle_of

DIAMETER_RATIO = {"small": 0.18, "large": 0.28}  # of the shorter side
SQUARE_RATIO = 0.92  # a square's side, as a ratio of the diameter
CROSS_ARM_RATIO = 0.36
TRIANGLE_RISE = 0.9  # of the radius, from the middle to the apex and to the base
TRIANGLE_SLOPE = 1.8  # its height over half its base


def drawn(scene: Scene, width: int, height: int) -> np.ndarray:
    """The scene (height, width, 3) in 8 bits."""
    image = np.broadcast_to(np.array(COLOURS[scene.ground], dtype=float), (height, width, 3))
    for thing in scene.things:
        cover = np.clip(0.5 - _distance(thing.shape, thing.place, thing.size, width, height), 0.0, 1.0)[..., None]
        image = image * (1.0 - cover) + np.array(COLOURS[thing.colour], dtype=float) * cover
    return np.round(image).astype(np.uint8)


def share_covered(thing: Thing, mask: np.ndarray) -> float:
    """How much of a thing a mask (height, width) covers, 0 to 1."""
    height, width = mask.shape
    return float(mask[_inside(thing.shape, thing.place, thing.size, width, height)].mean())


@lru_cache(maxsize=128)
def _inside(shape: str, place: str, size: str, width: int, height: int) -> np.ndarray:
    inside: np.ndarray = _distance(shape, place, size, width, height) <= 0
    return inside


def _distance(shape: str, place: str, size: str, width: int, height: int) -> np.ndarray:
    """Pixels (height, width) from the edge of a shape, negative inside."""
    middle_x, middle_y = middle_of(place)
    x, y = np.meshgrid(np.arange(width) + 0.5 - middle_x * width, np.arange(height) + 0.5 - middle_y * height)
    radius = DIAMETER_RATIO[size] * min(width, height) / 2
    across, down = np.abs(x), np.abs(y)
    found: np.ndarray
    if shape == "circle":
        found = np.hypot(x, y) - radius
    elif shape == "square":
        found = np.maximum(across, down) - SQUARE_RATIO * radius
    elif shape == "triangle":
        edge = (TRIANGLE_SLOPE * across - (y + TRIANGLE_RISE * radius)) / float(np.hypot(TRIANGLE_SLOPE, 1.0))
        found = np.maximum(edge, y - TRIANGLE_RISE * radius)
    else:
        arm = CROSS_ARM_RATIO * radius
        upright, level = np.maximum(across - arm, down - radius), np.maximum(down - arm, across - radius)
        found = np.minimum(upright, level)
    return found
