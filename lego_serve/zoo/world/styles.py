"""Renders scenes in three styles for adapters to learn, and as outline maps for the ControlNet.

A style changes how a scene looks and never what its caption says.
"""

import random

import numpy as np
import torch

from lego_serve.zoo.world.scenes import COLOUR_NAMES, Scene, drawn_things, paint_grounds, paint_things, palette_rgb

STYLES = ("stripes", "outline", "frame")
# Stripes are a texture of the ground, so their widths are in pixels, not in ratios of the side.  The autoencoder
# gets the colours of narrow ones wrong, and a small adapter does not learn ones of a single patch's width.
STRIPE_PERIOD_PIXELS = 64
STRIPE_PIXELS = 24
FRAME_RATIO = 0.06
# Of the shorter side.  An outline lies mostly around the thing, so that small ones stay hollow under a broad line.
LINE_INSIDE_RATIO = 0.012
LINE_OUTSIDE_RATIO = 0.03
LINE_RATIO = LINE_INSIDE_RATIO + LINE_OUTSIDE_RATIO
MAP_LINE_RATIO = 0.02  # on the edge, half of it inside


def render_styled(scenes: list[Scene], width: int, height: int, rng: random.Random, style: str) -> torch.Tensor:
    """Return images (scenes, 3, height, width) in -1..1 in one of STYLES; any other name draws them plainly."""
    palette = palette_rgb()
    image = paint_grounds(scenes, width, height, palette)
    if style == "stripes":
        image = _paint_trim(scenes, image, torch.arange(height)[:, None] % STRIPE_PERIOD_PIXELS < STRIPE_PIXELS)
    if style == "frame":
        image = _paint_trim(scenes, image, _frame_mask(width, height))
    for rows, things, distances in drawn_things(scenes, width, height, rng):
        paint_things(image, rows, things, _cover(distances, style), palette)
    return image


def outline_maps(scenes: list[Scene], width: int, height: int, rng: random.Random) -> torch.Tensor:
    """Return white outlines on black (scenes, 3, height, width) in -1..1; ``rng`` jitters as in `render`."""
    maps = -torch.ones(len(scenes), 3, height, width)
    for rows, _, distances in drawn_things(scenes, width, height, rng):
        cover = _line_cover(distances, MAP_LINE_RATIO / 2, MAP_LINE_RATIO / 2)
        maps[rows] = torch.maximum(maps[rows], 2 * cover[:, None] - 1)
    return maps


def thing_masks(scenes: list[Scene], width: int, height: int, rng: random.Random, style: str) -> list[list[np.ndarray]]:
    """Return the pixels (height, width) that each thing of each scene covers; ``rng`` jitters as in `render`."""
    masks: list[list[np.ndarray]] = [[] for _ in scenes]
    for rows, _, distances in drawn_things(scenes, width, height, rng):
        for row, cover in zip(rows, _cover(distances, style), strict=True):
            masks[row].append((cover > 0.5).numpy())
    return masks


def _cover(distances: torch.Tensor, style: str) -> torch.Tensor:
    """Return how far each pixel belongs to its thing (things, height, width), 0 to 1."""
    if style == "outline":
        return _line_cover(distances, LINE_INSIDE_RATIO, LINE_OUTSIDE_RATIO)
    return (0.5 - distances).clamp(0, 1)


def _line_cover(distances: torch.Tensor, inside_ratio: float, outside_ratio: float) -> torch.Tensor:
    short = min(distances.shape[-2:])
    middle, half = (outside_ratio - inside_ratio) / 2 * short, (outside_ratio + inside_ratio) / 2 * short
    return (half - (distances - middle).abs() + 0.5).clamp(0, 1)


def _paint_trim(scenes: list[Scene], grounds: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Return grounds painted over in white, or in black where they are white or yellow."""
    light = torch.tensor([s.ground in ("white", "yellow") for s in scenes])[:, None]
    white, black = (palette_rgb()[COLOUR_NAMES.index(name)] for name in ("white", "black"))
    trim = torch.where(light, black, white)[:, :, None, None]
    return torch.where(where[None, None], trim, grounds)


def _frame_mask(width: int, height: int) -> torch.Tensor:
    """Return the pixels (height, width) of the frame."""
    band = round(FRAME_RATIO * min(width, height))
    mask = torch.ones(height, width, dtype=torch.bool)
    mask[band:-band, band:-band] = False
    return mask
