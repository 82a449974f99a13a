"""What an edit asks for: another thing where its mask lies, beside what the mask leaves of the template."""

import random
from collections.abc import Callable
from dataclasses import replace
from zlib import crc32

import numpy as np

from loadgen.edits.drawing import share_covered
from loadgen.edits.scenes import COLOURS, SHAPES, SIZES, Scene, Thing

FITS = 0.9  # from so much of a thing within the mask on, it can be asked for there
STAYS = 0.5  # up to so much of another thing within the mask, it is still seen and named
TRIES = 4000  # for a prompt that has not come yet; one of the slot's 64th part takes 64 on average


def changed(scene: Scene, place: str, mask: np.ndarray, rng: random.Random) -> Callable[[], Scene]:
    """Draws scenes that an edit of a thing's place may end in: shape and colour are never those of before."""
    [own] = [thing for thing in scene.things if thing.place == place]
    kept = [thing for thing in scene.things if thing is not own and share_covered(thing, mask) <= STAYS]
    colours = [colour for colour in COLOURS if colour not in (scene.ground, own.colour)]
    shapes = [shape for shape in SHAPES if shape != own.shape]
    sizes = {shape: _sizes(replace(own, shape=shape), mask) for shape in shapes}

    def draw() -> Scene:
        shape = rng.choice(shapes)
        things = [Thing(rng.choice(colours), shape, place, rng.choice(sizes[shape])), *kept]
        rng.shuffle(things)
        return replace(scene, things=tuple(things))

    return draw


class FreshPrompts:
    """The prompts of one of so many slots: none comes twice in it, and slots share none as long as words allow."""

    def __init__(self, slot: int, slots: int) -> None:
        self._slot, self._slots = slot, slots
        self._seen: set[str] = set()

    def fresh(self, draw: Callable[[], str]) -> str:
        """The first drawn that is new; ValueError where none is.

        Each slot has prompts of its own; one in need of more takes those of others.
        """
        for is_own in (True, False):
            for _ in range(TRIES):
                prompt = draw()
                if prompt not in self._seen and (not is_own or crc32(prompt.encode()) % self._slots == self._slot):
                    self._seen.add(prompt)
                    return prompt
        raise ValueError(f"no fresh prompt after {len(self._seen)}, only such as '{draw()}'")


def _sizes(thing: Thing, mask: np.ndarray) -> list[str]:
    """The sizes in which a thing lies in the mask; the smallest where none does."""
    fitting = [size for size in SIZES if share_covered(replace(thing, size=size), mask) >= FITS]
    return fitting or [SIZES[0]]
