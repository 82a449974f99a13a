"""Scenes of templates: one or two things on a plain ground, of the kind the shipped model was trained on.

The values repeat those of lego_serve.zoo, for loadgen imports nothing of what it measures; a test holds them equal.
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
LARGE_SHARE = 0.25  # of templates' things: try-on masks cover most small things but cut every other large one
STRIDE = 4  # between the places of the first things of consecutive templates


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


def place_centre(place: str) -> tuple[float, float]:
    """Return the centre (x, y) of a place, in shares of the width and the height."""
    row, column = divmod(PLACES.index(place), 3)
    return (2 * column + 1) / 6, (2 * row + 1) / 6


def template_scene(number: int) -> Scene:
    """Return the scene of a template: two things for even numbers, one for odd; the first 72 all differ.

    The most popular template, number 0, has two things, for these allow many more prompts, and no prompt repeats.
    """
    rng = random.Random(f"template {number}")
    ground, first = list(COLOURS)[number % len(COLOURS)], PLACES[number * STRIDE % len(PLACES)]
    places = [first, *rng.sample([place for place in PLACES if place != first], 1 - number % 2)]
    colours = rng.sample([colour for colour in COLOURS if colour != ground], len(places))
    things = [
        Thing(colour, rng.choice(SHAPES), place, "large" if rng.random() < LARGE_SHARE else "small")
        for colour, place in zip(colours, places, strict=True)
    ]
    return Scene(tuple(things), ground)
