"""Reads an image back into a scene by geometry and colour, without a network or anything learned.

The ground is the commonest colour.  Pixels that differ from it form connected components; each must be of one colour
and overlap sufficiently with one of the four shapes drawn in its box.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from lego_serve.zoo.world.scenes import (
    COLOUR_NAMES,
    COLOURS,
    DIAMETER_RATIO,
    PLACES,
    SHAPES,
    SQUARE_RATIO,
    Scene,
    Thing,
    shape_distances,
)

PALETTE = np.array(list(COLOURS.values()), dtype=np.float32)
DIFFERENT = 60.0  # distance in RGB from which a pixel is no longer the ground
SPECK_RATIO = 0.05  # of the diameter of a small thing, squared: components below are noise
# Between the widest small thing and the narrowest large one (a square).
SIZE_LIMIT_RATIO = (DIAMETER_RATIO["small"] + DIAMETER_RATIO["large"] * SQUARE_RATIO) / 2
MIN_OVERLAP = 0.6
MIN_PURITY = 0.6


@dataclass(frozen=True, slots=True)
class ImageReading:
    """The scene read from an image; ``is_clear`` is False where a component is no clean thing."""

    scene: Scene
    is_clear: bool


def nearest_colours(image: np.ndarray) -> np.ndarray:
    """Return each pixel's nearest colour (height, width) in PALETTE, for a float image (height, width, 3)."""
    nearest: np.ndarray = np.linalg.norm(image[:, :, None] - PALETTE, axis=-1).argmin(-1)
    return nearest


def read_image(pixels: np.ndarray) -> ImageReading:
    """Parse an image (height, width, 3) of 8 bits."""
    image = pixels.astype(np.float32)
    nearest = nearest_colours(image)
    ground = int(np.bincount(nearest.ravel(), minlength=len(PALETTE)).argmax())
    apart = np.linalg.norm(image - PALETTE[ground], axis=-1) > DIFFERENT
    height, width = apart.shape
    short = min(height, width)
    labels, count = ndimage.label(ndimage.binary_opening(apart), structure=np.ones((3, 3)))
    things, is_clear = [], True
    speck = SPECK_RATIO * (DIAMETER_RATIO["small"] * short) ** 2
    for index, box in enumerate(ndimage.find_objects(labels), start=1):
        part = labels[box] == index
        if part.sum() < speck:
            continue
        thing, is_clean = _read_thing(part, box, nearest[box], ground, width, height)
        things.append(thing)
        is_clear = is_clear and is_clean
    return ImageReading(Scene(tuple(things), COLOUR_NAMES[ground]), is_clear and 0 < len(things) <= 2 and count > 0)


def _read_thing(
    part: np.ndarray, box: tuple[slice, ...], nearest: np.ndarray, ground: int, width: int, height: int
) -> tuple[Thing, bool]:
    inside = ndimage.binary_erosion(part)
    inside = inside if inside.any() else part
    votes = np.bincount(nearest[inside], minlength=len(PALETTE)).astype(np.float64)
    votes[ground] = 0
    colour = int(votes.argmax())
    purity = votes[colour] / max(1.0, float(inside.sum()))
    rows, columns = box
    row = min(2, int(3 * (rows.start + rows.stop) / 2 / height))
    column = min(2, int(3 * (columns.start + columns.stop) / 2 / width))
    extent = max(part.shape)
    size = "large" if extent > SIZE_LIMIT_RATIO * min(width, height) else "small"
    shape, overlap = _best_shape(part)
    thing = Thing(COLOUR_NAMES[colour], shape, PLACES[3 * row + column], size)
    return thing, purity >= MIN_PURITY and overlap >= MIN_OVERLAP


def _best_shape(part: np.ndarray) -> tuple[str, float]:
    """Return the shape that overlaps a component most when drawn in its box, and the intersection over union."""
    height, width = part.shape
    overlaps = {}
    for index, shape in enumerate(SHAPES):
        mask = _draw_in_box(index, width, height)
        union = np.logical_or(mask, part).sum()
        overlaps[shape] = float(np.logical_and(mask, part).sum() / union) if union else 0.0
    best = max(overlaps, key=lambda s: overlaps[s])
    return best, overlaps[best]


def _draw_in_box(shape: int, width: int, height: int) -> np.ndarray:
    """Return the mask (height, width) of a shape that fills its box.

    In units of the diameter a triangle's box is 1 x 0.9 and a square's 0.92 x 0.92.
    """
    own_height = 0.9 if SHAPES[shape] == "triangle" else 1.0
    own = SQUARE_RATIO if SHAPES[shape] == "square" else 1.0
    xs = ((torch.arange(width) + 0.5) / width - 0.5) * own
    ys = ((torch.arange(height) + 0.5) / height - 0.5) * own * own_height
    distances = shape_distances(xs[None, None, :], ys[None, :, None], torch.ones(1, 1, 1))
    mask: np.ndarray = (distances[0, shape] <= 0).numpy()
    return mask
