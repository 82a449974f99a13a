"""Writes captions of scenes in the words the shipped model was trained on, with all synonyms and word orders."""

import random

from loadgen.edits.scenes import Scene, Thing

COLOUR_WORDS = {"purple": ("purple", "violet")}  # the others have one word each
SHAPE_WORDS = {
    "circle": ("circle", "disc", "dot"),
    "square": ("square", "box"),
    "triangle": ("triangle",),
    "cross": ("cross", "plus"),
}
SIZE_WORDS = {"small": ("small", "little", "tiny"), "large": ("large", "big", "huge")}
PLACE_WORDS = {
    "top left": ("in the top left corner", "at the top left", "in the upper left", "top left"),
    "top": ("at the top", "at the top centre", "in the upper middle"),
    "top right": ("in the top right corner", "at the top right", "in the upper right", "top right"),
    "left": ("on the left", "on the left side", "at the left"),
    "centre": ("in the centre", "in the middle", "in the center", "at the centre"),
    "right": ("on the right", "on the right side", "at the right"),
    "bottom left": ("in the bottom left corner", "at the bottom left", "in the lower left", "bottom left"),
    "bottom": ("at the bottom", "at the bottom centre", "in the lower middle"),
    "bottom right": ("in the bottom right corner", "at the bottom right", "in the lower right", "bottom right"),
}
BETWEEN = (" and ", ", ")
FORMS = (
    "{} on a {g} background",
    "{}, {g} background",
    "{} on a {g} ground",
    "{} against a {g} background",
    "on a {g} background, {}",
    "{g} background, {}",
)


def caption(scene: Scene, rng: random.Random) -> str:
    """Return a complete caption: every thing with size, colour, shape and place, and the ground."""
    body = rng.choice(BETWEEN).join(_phrase(thing, rng) for thing in scene.things)
    return rng.choice(FORMS).format(body, g=_colour_word(scene.ground, rng))


def _phrase(thing: Thing, rng: random.Random) -> str:
    size = rng.choice(SIZE_WORDS[thing.size])
    shape = rng.choice(SHAPE_WORDS[thing.shape])
    place = rng.choice(PLACE_WORDS[thing.place])
    return f"a {size} {_colour_word(thing.colour, rng)} {shape} {place}"


def _colour_word(name: str, rng: random.Random) -> str:
    return rng.choice(COLOUR_WORDS.get(name, (name,)))
