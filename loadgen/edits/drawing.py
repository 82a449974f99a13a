"""Draws scenes as the training data of the shipped model does: smooth shapes, lengths in shares of a side."""

from functools import lru_cache

import numpy as np

from loadgen.edits.scenes import COLOURS, Scene, Thing, place_centre

DIAMETER_RATIO = {"small": 0.18, "large": 0.28}  # of the shorter side
SQUARE_RATIO = 0.92  # a square's side, as a ratio of the diameter
CROSS_ARM_RATIO = 0.36
TRIANGLE_RISE = 0.9  # of the radius, from the middle to the apex and to the base
TRIANGLE_SLOPE = 1.8  # its height over half its base


def draw_scene(scene: Scene, width: int, height: int) -> np.ndarray:
    """Return the scene (height, width, 3) in 8 bits."""
    image = np.broadcast_to(np.array(COLOURS[scene.ground], dtype=float), (height, width, 3))
    for thing in scene.things:
        cover = np.clip(0.5 - _distance(thing.shape, thing.place, thing.size, width, height), 0.0, 1.0)[..., None]
        image = image * (1.0 - cover) + np.array(COLOURS[thing.colour], dtype=float) * cover
    return np.round(image).astype(np.uint8)


def share_covered(thing: Thing, mask: np.ndarray) -> float:
    """Return how much of a thing a mask (height, width) covers, 0 to 1."""
    height, width = mask.shape
    return float(mask[_inside(thing.shape, thing.place, thing.size, width, height)].mean())


@lru_cache(maxsize=128)
def _inside(shape: str, place: str, size: str, width: int, height: int) -> np.ndarray:
    inside: np.ndarray = _distance(shape, place, size, width, height) <= 0
    return inside


def _distance(shape: str, place: str, size: str, width: int, height: int) -> np.ndarray:
    """Return each pixel's distance (height, width) to the edge of a shape, negative inside."""
    middle_x, middle_y = place_centre(place)
    x, y = np.meshgrid(np.arange(width) + 0.5 - middle_x * width, np.arange(height) + 0.5 - middle_y * height)
    radius = DIAMETER_RATIO[size] * min(width, height) / 2
    offset_x, offset_y = np.abs(x), np.abs(y)
    distance: np.ndarray
    if shape == "circle":
        distance = np.hypot(x, y) - radius
    elif shape == "square":
        distance = np.maximum(offset_x, offset_y) - SQUARE_RATIO * radius
    elif shape == "triangle":
        edge = (TRIANGLE_SLOPE * offset_x - (y + TRIANGLE_RISE * radius)) / float(np.hypot(TRIANGLE_SLOPE, 1.0))
        distance = np.maximum(edge, y - TRIANGLE_RISE * radius)
    else:
        arm = CROSS_ARM_RATIO * radius
        upright, level = np.maximum(offset_x - arm, offset_y - radius), np.maximum(offset_y - arm, offset_x - radius)
        distance = np.minimum(upright, level)
    return distance
