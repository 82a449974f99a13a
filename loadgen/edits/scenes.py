"""What templates show: one or two things on a plain ground, of the world in which the shipped model was trained.

Its values stand here again, for loadgen imports nothing of what it measures; a test holds them equal.
"""

import random
from dataclasses import dataclass

COLOURS = {
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
LARGE_SHARE = 0.25  # of templates' things: masks as in try-on cover most small ones but cut every other large one
STRIDE = 4  # from the first thing's place in one template to the next's


@dataclass(frozen=True, slots=True)
class Thing:
    """One coloured shape, its attributes given by name."""

    colour: str
    shape: str
    place: str
    size: str


@dataclass(frozen=True, slots=True)
class Scene:
    """A plain ground with one or two things on it, in the order in which they are named."""

    things: tuple[Thing, ...]
    ground: str


def middle_of(place: str) -> tuple[float, float]:
    """Where a place lies: (x, y), as shares of the width and the height."""
    row, column = divmod(PLACES.index(place), 3)
    return (2 * column + 1) / 6, (2 * row + 1) / 6


def scene_of(number: int) -> Scene:
    """A template's scene; even numbers show two things and odd ones one, and no two of the first 72 are the same.

    The most popular has two, for they can be told in many more ways than one, and none is told twice.
    """
    rng = random.Random(f"template {number}")
    ground, first = list(COLOURS)[number % len(COLOURS)], PLACES[number * STRIDE % len(PLACES)]
    places = [first, *rng.sample([place for place in PLACES if place != first], 1 - number % 2)]
    others = rng.sample([colour for colour in COLOURS if colour != ground], len(places))
    things = [
        Thing(colour, rng.choice(SHAPES), place, "large" if rng.random() < LARGE_SHARE else "small")
        for colour, place in zip(others, places, strict=True)
    ]
    return Scene(tuple(things), ground)
