"""The world that lego-tiny draws: one or two coloured shapes on a plain ground.

A scene is a handful of small integers, so that millions of them can be sampled,
hashed and rendered without a Python loop per pixel.  Lengths are ratios of the
shorter side of the image, so a scene looks alike at every size.
"""

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (215, 38, 38),
    "orange": (245, 135, 20),
    "yellow": (250, 215, 50),
    "green": (45, 155, 75),
    "blue": (45, 95, 215),
    "purple": (135, 60, 175),
    "white": (245, 245, 245),
    "black": (25, 25, 25),
}
SHAPES = ("circle", "square", "triangle", "cross")
SIZES = ("small", "large")
PLACES = (
    "top left", "top", "top right",
    "left", "centre", "right",
    "bottom left", "bottom", "bottom right",
)  # fmt: skip
COLOUR_NAMES = tuple(COLOURS)
DIAMETER_RATIO = {"small": 0.18, "large": 0.28}
JITTER_RATIO = 0.012
SQUARE_RATIO = 0.92  # a square's side, as a ratio of the diameter, so that areas look alike
CROSS_ARM_RATIO = 0.36
HELD_OUT_MODULUS = 10


@dataclass(frozen=True, slots=True)
class Thing:
    """One coloured shape, its attributes given by name."""

    colour: str
    shape: str
    place: str
    size: str


@dataclass(frozen=True, slots=True)
class Scene:
    """A plain ground with one or two things on it, in the order a caption names them."""

    things: tuple[Thing, ...]
    ground: str

    @property
    def key(self) -> str:
        """A text that is equal for scenes that look alike, whatever the order of their things."""
        parts = sorted(f"{t.colour},{t.shape},{t.place},{t.size}" for t in self.things)
        return ";".join(parts) + "|" + self.ground

    @property
    def is_held_out(self) -> bool:
        """Whether the scene is kept for judging and never generated in training."""
        digest = hashlib.sha256(self.key.encode()).digest()
        return int.from_bytes(digest[:8], "big") % HELD_OUT_MODULUS == 0


def sample_scene(rng: random.Random, things: int) -> Scene:
    """Draw a scene of so many things; places differ and no thing has the ground's colour."""
    ground = rng.choice(COLOUR_NAMES)
    colours = [c for c in COLOUR_NAMES if c != ground]
    places = rng.sample(PLACES, things)
    return Scene(
        tuple(Thing(rng.choice(colours), rng.choice(SHAPES), p, rng.choice(SIZES)) for p in places),
        ground,
    )


def sample_scenes(rng: random.Random, count: int, things: int, *, held_out: bool) -> list[Scene]:
    """Draw so many scenes, all held out from training or none."""
    scenes: list[Scene] = []
    while len(scenes) < count:
        scene = sample_scene(rng, things)
        if scene.is_held_out == held_out:
            scenes.append(scene)
    return scenes


def place_centre(place: str, width: int, height: int) -> tuple[float, float]:
    """Return the centre (x, y) in pixels of one of the nine places."""
    row, column = divmod(PLACES.index(place), 3)
    return (2 * column + 1) * width / 6, (2 * row + 1) * height / 6


def shape_distances(x: torch.Tensor, y: torch.Tensor, diameter: torch.Tensor) -> torch.Tensor:
    """Return signed distances in pixels (negative inside) to each of SHAPES, stacked on dimension 1.

    ``x`` and ``y`` are offsets from the centre, (scenes, height, width); ``diameter`` broadcasts.
    """
    radius = diameter / 2
    ax, ay = x.abs(), y.abs()
    circle = torch.hypot(x, y) - radius
    square = torch.maximum(ax, ay) - SQUARE_RATIO * radius
    # Upward triangle: base on y = +0.9 r, apex at y = -0.9 r, base as wide as the diameter.
    slope = 1.8  # height over half base
    edge = (slope * ax - (y + 0.9 * radius)) / (1 + slope * slope) ** 0.5
    triangle = torch.maximum(edge, y - 0.9 * radius)
    arm = CROSS_ARM_RATIO * radius
    upright = torch.maximum(ax - arm, ay - radius)
    level = torch.maximum(ay - arm, ax - radius)
    cross = torch.minimum(upright, level)
    return torch.stack([circle, square, triangle, cross], dim=1)


def drawn_things(
    scenes: list[Scene], width: int, height: int, rng: random.Random
) -> Iterator[tuple[list[int], list[Thing], torch.Tensor]]:
    """Yield the first things of all scenes, then the second: scene indices, things, signed distances to their edges.

    Each thing is jittered a little; the distances (things, height, width) are in pixels and negative inside.
    """
    ys = torch.arange(height, dtype=torch.float32)[None, :, None] + 0.5
    xs = torch.arange(width, dtype=torch.float32)[None, None, :] + 0.5
    short = min(width, height)
    for index in range(max(len(s.things) for s in scenes)):
        rows = [i for i, s in enumerate(scenes) if len(s.things) > index]
        things = [scenes[i].things[index] for i in rows]
        centres = []
        for thing in things:
            x, y = place_centre(thing.place, width, height)
            jitter = JITTER_RATIO * short
            centres.append((x + rng.uniform(-jitter, jitter), y + rng.uniform(-jitter, jitter)))
        centre = torch.tensor(centres)[:, :, None, None]
        diameter = torch.tensor([DIAMETER_RATIO[t.size] * short for t in things])[:, None, None]
        distances = shape_distances(xs - centre[:, 0], ys - centre[:, 1], diameter)
        kind = torch.tensor([SHAPES.index(t.shape) for t in things])
        yield rows, things, distances[torch.arange(len(rows)), kind]


def palette_rgb() -> torch.Tensor:
    """Return the colours (colours, 3) in -1..1, in the order of COLOUR_NAMES."""
    return torch.tensor(list(COLOURS.values()), dtype=torch.float32) / 127.5 - 1


def paint_grounds(scenes: list[Scene], width: int, height: int, palette: torch.Tensor) -> torch.Tensor:
    """Return images (scenes, 3, height, width) of the grounds alone."""
    ground = torch.tensor([COLOUR_NAMES.index(s.ground) for s in scenes])
    return palette[ground][:, :, None, None].expand(-1, -1, height, width).clone()


def paint_things(
    image: torch.Tensor, rows: list[int], things: list[Thing], cover: torch.Tensor, palette: torch.Tensor
) -> None:
    """Paint things onto their images in place, where and as far as they cover (things, height, width) them."""
    colour = palette[[COLOUR_NAMES.index(t.colour) for t in things]][:, :, None, None]
    image[rows] = image[rows] * (1 - cover[:, None]) + colour * cover[:, None]


def render(scenes: list[Scene], width: int, height: int, rng: random.Random) -> torch.Tensor:
    """Return images (scenes, 3, height, width) in -1..1, anti-aliased, each thing jittered a little."""
    palette = palette_rgb()
    image = paint_grounds(scenes, width, height, palette)
    for rows, things, distances in drawn_things(scenes, width, height, rng):
        paint_things(image, rows, things, (0.5 - distances).clamp(0, 1), palette)
    return image


def to_bytes(images: torch.Tensor) -> torch.Tensor:
    """Return images (images, 3, height, width) in -1..1 as (images, height, width, 3) of 8 bits."""
    return ((images + 1) * 127.5).round().byte().permute(0, 2, 3, 1)
