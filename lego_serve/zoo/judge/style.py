"""Recognises the style of an image by colour and geometry, without a network or anything learned."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from lego_serve.zoo.judge.parse import DIFFERENT
from lego_serve.zoo.judge.prompts import BATCH
from lego_serve.zoo.world.captions import caption
from lego_serve.zoo.world.scenes import sample_scenes
from lego_serve.zoo.world.styles import FRAME_RATIO, LINE_RATIO, STRIPE_PERIOD_PIXELS, STYLES

PLAIN = "base"
MIN_STRIPE_AMPLITUDE = 30.0  # in RGB; stripes' own is 70 and more, that of bare ground 0
MIN_FRAME_SHARE = 0.8  # of the pixels along each side
MIN_HOLE_RATIO = 0.08  # of things' filled area
MIN_HOLLOW_SHARE = 0.5
# Names of one adapter (or none, for the family alone), prompts, seeds and a side to images of 8 bits.
GenerateStyled = Callable[[str, Sequence[str], Sequence[int], int], np.ndarray]


@dataclass(frozen=True, slots=True)
class StyleVerdict:
    """One image, the style it was to have, and the style that was recognised."""

    side: int
    wanted: str
    text: str
    pixels: np.ndarray
    seen: str


def read_style(pixels: np.ndarray) -> str:
    """Return one of STYLES, or "base" for an image (height, width, 3) of 8 bits in none of them."""
    image = pixels.astype(np.float32)
    is_thing = _ground_distance(image, pixels) > DIFFERENT
    if frame_share(is_thing) > MIN_FRAME_SHARE:
        return "frame"
    if stripe_amplitude(image) > MIN_STRIPE_AMPLITUDE:
        return "stripes"
    is_hollow = hole_ratio(is_thing) > MIN_HOLE_RATIO or hollow_share(image, is_thing) > MIN_HOLLOW_SHARE
    return "outline" if is_hollow else PLAIN


def stripe_amplitude(image: np.ndarray) -> float:
    """Return the amplitude of the stripes' period down the columns that show mostly bare ground."""
    rows = np.arange(len(image) // STRIPE_PERIOD_PIXELS * STRIPE_PERIOD_PIXELS)
    wave = np.exp(-2j * np.pi * rows / STRIPE_PERIOD_PIXELS)
    swing = 2 * np.abs(np.einsum("y,yxc->xc", wave, image[: len(rows)])) / len(rows)
    # Two large things cover up to 56 % of the columns; the quantile falls on bare ground.
    return float(np.quantile(np.linalg.norm(swing, axis=-1), 0.3))


def frame_share(is_thing: np.ndarray) -> float:
    """Return which part of the pixels along the image's edge differs from the ground within."""
    depth = max(1, round(FRAME_RATIO * min(is_thing.shape) / 2))
    sides = (is_thing[:depth], is_thing[-depth:], is_thing[:, :depth], is_thing[:, -depth:])
    return float(min(side.mean() for side in sides))


def hole_ratio(is_thing: np.ndarray) -> float:
    """Return which part of the things' filled area shows the ground; finds lines too thin for `hollow_share`."""
    apart = ndimage.binary_closing(is_thing, structure=np.ones((3, 3)))
    filled = ndimage.binary_fill_holes(apart)
    return 1 - float(apart.sum()) / max(1.0, float(filled.sum()))


def hollow_share(image: np.ndarray, is_thing: np.ndarray) -> float:
    """Return which part of the things' cores has another colour than the rim nearest to it.

    Finds outlines that are not closed, or whose inside is not quite the ground's colour.
    """
    filled = ndimage.binary_fill_holes(ndimage.binary_closing(is_thing))
    line = max(3, round(LINE_RATIO * min(filled.shape)))
    core = ndimage.binary_erosion(filled, iterations=line)
    # The outermost pixels are blurred with the ground, the innermost of a line with what it encloses.
    rim = ndimage.binary_erosion(filled) & ~ndimage.binary_erosion(filled, iterations=line - 1 - line // 4)
    if not core.any() or not rim.any():
        return 0.0
    nearest = ndimage.distance_transform_edt(~rim, return_distances=False, return_indices=True)
    contrast = np.linalg.norm(image - image[tuple(nearest)], axis=-1)
    return float((contrast[core] > DIFFERENT).mean())


def _ground_distance(image: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Return each pixel's distance in RGB from the commonest colour; ``image`` is ``pixels`` as floats."""
    red, green, blue = np.moveaxis(pixels.astype(np.uint16) >> 5, -1, 0)
    coarse = red << 6 | green << 3 | blue
    ground = np.median(image[coarse == np.bincount(coarse.ravel()).argmax()], axis=0)
    distance: np.ndarray = np.linalg.norm(image - ground, axis=-1)
    return distance


def judge_styles(
    generate: GenerateStyled, sides: Sequence[int], count: int, styles: Sequence[str] = (PLAIN, *STYLES)
) -> Iterator[StyleVerdict]:
    """Draw ``count`` held-out scenes with no adapter and as many with each; verdicts come as they are made."""
    for side in sides:
        for wanted in styles:
            rng = random.Random("styles to judge")
            scenes = sample_scenes(rng, count // 2, 1, held_out=True)
            scenes += sample_scenes(rng, count - count // 2, 2, held_out=True)
            texts = [caption(scene, rng, complete=True) for scene in scenes]
            for first in range(0, count, BATCH):
                batch = texts[first : first + BATCH]
                images = generate(wanted, batch, range(first, first + len(batch)), side)
                for text, pixels in zip(batch, images, strict=True):
                    yield StyleVerdict(side, wanted, text, pixels, read_style(pixels))


def style_table(verdicts: Sequence[StyleVerdict]) -> dict[str, dict[str, dict[str, int]]]:
    """Return by side and wanted style how many images were recognised as each style."""
    counts: dict[str, dict[str, dict[str, int]]] = {}
    for verdict in verdicts:
        cell = counts.setdefault(str(verdict.side), {}).setdefault(verdict.wanted, dict.fromkeys((PLAIN, *STYLES), 0))
        cell[verdict.seen] += 1
    return counts
