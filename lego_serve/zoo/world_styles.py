"""The world drawn in other ways: three styles for adapters to learn, and outline maps for the ControlNet.

A style changes how a scene looks and never what its caption says.
"""

import random

import torch

from lego_serve.zoo.world import COLOUR_NAMES, Scene, drawn_things, paint_grounds, paint_things, palette_rgb

STYLES = ("stripes", "outline", "frame")
# Stripes are a texture of the ground, so their widths are in pixels and no ratios of the side.  The autoencoder
# gets the colours of narrow ones wrong, and a small adapter does not learn ones of a single patch's width.
STRIPE_PERIOD_PIXELS = 64
STRIPE_PIXELS = 24
FRAME_RATIO = 0.06
LINE_RATIO = 0.03  # of the shorter side; the line lies on the edge, half of it inside
MAP_LINE_RATIO = 0.02


def render_styled(scenes: list[Scene], width: int, height: int, rng: random.Random, style: str) -> torch.Tensor:
    """Pictures (scenes, 3, height, width) in -1..1 in one of STYLES; any other name draws them plainly."""
    palette = palette_rgb()
    picture = paint_grounds(scenes, width, height, palette)
    if style == "stripes":
        picture = _trimmed(scenes, picture, torch.arange(height)[:, None] % STRIPE_PERIOD_PIXELS < STRIPE_PIXELS)
    if style == "frame":
        picture = _trimmed(scenes, picture, _edge(width, height))
    for rows, things, distances in drawn_things(scenes, width, height, rng):
        cover = _line_cover(distances, LINE_RATIO) if style == "outline" else (0.5 - distances).clamp(0, 1)
        paint_things(picture, rows, things, cover, palette)
    return picture


def outline_maps(scenes: list[Scene], width: int, height: int, rng: random.Random) -> torch.Tensor:
    """White outlines on black (scenes, 3, height, width) in -1..1; the same ``rng`` state jitters as `render` does."""
    maps = -torch.ones(len(scenes), 3, height, width)
    for rows, _, distances in drawn_things(scenes, width, height, rng):
        maps[rows] = torch.maximum(maps[rows], 2 * _line_cover(distances, MAP_LINE_RATIO)[:, None] - 1)
    return maps


def _line_cover(distances: torch.Tensor, ratio: float) -> torch.Tensor:
    half = ratio * min(distances.shape[-2:]) / 2
    return (half - distances.abs() + 0.5).clamp(0, 1)


def _trimmed(scenes: list[Scene], grounds: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Grounds painted over in white, or in black where they are white or yellow."""
    light = torch.tensor([s.ground in ("white", "yellow") for s in scenes])[:, None]
    white, black = (palette_rgb()[COLOUR_NAMES.index(name)] for name in ("white", "black"))
    trim = torch.where(light, black, white)[:, :, None, None]
    return torch.where(where[None, None], trim, grounds)


def _edge(width: int, height: int) -> torch.Tensor:
    """Which pixels (height, width) lie in the frame."""
    band = round(FRAME_RATIO * min(width, height))
    edge = torch.ones(height, width, dtype=torch.bool)
    edge[band:-band, band:-band] = False
    return edge
