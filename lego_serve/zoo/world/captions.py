"""The grammar of captions, with synonyms and several word orders."""

import random

from lego_serve.zoo.world.scenes import PLACES, Scene, Thing, sample_scenes

COLOUR_WORDS = {"purple": ("purple", "purple", "violet")}
SHAPE_WORDS = {
    "circle": ("circle", "circle", "disc", "dot"),
    "square": ("square", "square", "box"),
    "triangle": ("triangle", "triangle"),
    "cross": ("cross", "cross", "plus"),
}
SIZE_WORDS = {"small": ("small", "small", "little", "tiny"), "large": ("large", "large", "big", "huge")}
PLACE_WORDS = {
    "top left": ("in the top left corner", "at the top left", "in the upper left", "top left"),
    "top": ("at the top", "at the top", "at the top centre", "in the upper middle"),
    "top right": ("in the top right corner", "at the top right", "in the upper right", "top right"),
    "left": ("on the left", "on the left", "on the left side", "at the left"),
    "centre": ("in the centre", "in the middle", "in the center", "at the centre"),
    "right": ("on the right", "on the right", "on the right side", "at the right"),
    "bottom left": ("in the bottom left corner", "at the bottom left", "in the lower left", "bottom left"),
    "bottom": ("at the bottom", "at the bottom", "at the bottom centre", "in the lower middle"),
    "bottom right": ("in the bottom right corner", "at the bottom right", "in the lower right", "bottom right"),
}
GROUND_LAST = ("{} on a {g} background", "{}, {g} background", "{} on a {g} ground", "{} against a {g} background")
GROUND_FIRST = ("on a {g} background, {}", "{g} background, {}")
# Relations by the sign of the second place minus the first, (rows, columns).
RELATIONS = {
    (1, 0): ("above",),
    (-1, 0): ("below", "under"),
    (0, 1): ("left of", "to the left of"),
    (0, -1): ("right of", "to the right of"),
}


def relation_of(first: Thing, second: Thing) -> tuple[int, int]:
    """Return the signs (rows, columns) of the offset from the first thing's place to the second's."""
    row, column = divmod(PLACES.index(first.place), 3)
    other_row, other_column = divmod(PLACES.index(second.place), 3)
    return (other_row > row) - (other_row < row), (other_column > column) - (other_column < column)


def _thing_phrase(thing: Thing, rng: random.Random, *, size: bool, place: bool) -> str:
    words = ["a"]
    if size:
        words.append(rng.choice(SIZE_WORDS[thing.size]))
    words.append(rng.choice(COLOUR_WORDS.get(thing.colour, (thing.colour,))))
    words.append(rng.choice(SHAPE_WORDS[thing.shape]))
    if words[1][0] in "aeiou":
        words[0] = "an"
    if place:
        words.append(rng.choice(PLACE_WORDS[thing.place]))
    return " ".join(words)


def caption(scene: Scene, rng: random.Random, *, complete: bool = False) -> str:
    """Return a caption; unless ``complete``, sizes, places or the ground are sometimes left out.

    Two things in one row or column may be given by their relation instead of their places.
    """
    size = complete or rng.random() < 0.85
    relation = relation_of(scene.things[0], scene.things[1]) if len(scene.things) == 2 else (0, 0)
    if relation in RELATIONS and rng.random() < 0.25:
        first, second = (_thing_phrase(t, rng, size=size, place=False) for t in scene.things)
        body = f"{first} {rng.choice(RELATIONS[relation])} {second}"
    else:
        place = complete or rng.random() < 0.93
        parts = [_thing_phrase(t, rng, size=size, place=place) for t in scene.things]
        body = rng.choice((" and ", " and ", ", ")).join(parts)
    if not complete and rng.random() < 0.07:
        return body
    form = rng.choice(GROUND_LAST) if rng.random() < 0.8 else rng.choice(GROUND_FIRST)
    return form.format(body, g=rng.choice(COLOUR_WORDS.get(scene.ground, (scene.ground,))))


def vague_caption(scene: Scene, rng: random.Random) -> str:
    """Return a caption without places and sizes, which are left to a control map."""
    parts = [_thing_phrase(t, rng, size=False, place=False) for t in scene.things]
    ground = rng.choice(COLOUR_WORDS.get(scene.ground, (scene.ground,)))
    return rng.choice(GROUND_LAST).format(" and ".join(parts), g=ground)


def says(text: str) -> frozenset[str]:
    """Return which of the attributes "size", "place" and "ground" a caption of this grammar states."""
    stated = set()
    words = text.replace(",", " ").split()
    if any(w in words for names in SIZE_WORDS.values() for w in names):
        stated.add("size")
    if any(p in text for forms in PLACE_WORDS.values() for p in forms):
        stated.add("place")
    if "background" in words or "ground" in words:
        stated.add("ground")
    return frozenset(stated)


def calibration_captions(count: int) -> tuple[str, ...]:
    """Return the same captions every time, of one object and of two in turn, that no judge asks for."""
    rng = random.Random("calibration")
    kinds = [sample_scenes(rng, -(-count // 2), things, held_out=False) for things in (1, 2)]
    scenes = [scene for pair in zip(*kinds, strict=True) for scene in pair]
    return tuple(caption(scene, rng, complete=True) for scene in scenes[:count])
