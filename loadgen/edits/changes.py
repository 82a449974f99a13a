"""Draws the target scenes of edits: another thing where the mask lies, the rest of the template as it is."""

import random
from collections.abc import Callable
from dataclasses import replace
from zlib import crc32

import numpy as np

from loadgen.edits.drawing import share_covered
from loadgen.edits.scenes import COLOURS, SHAPES, SIZES, Scene, Thing

FITS = 0.9  # share of a thing within the mask from which the thing can be drawn there
STAYS = 0.5  # share of another thing within the mask up to which it stays visible and is named
TRIES = 4000  # for a new prompt; one of the slot's own 64th takes 64 on average


def scene_changes(scene: Scene, place: str, mask: np.ndarray, rng: random.Random) -> Callable[[], Scene]:
    """Return a function that draws results of an edit at ``place``: shape and colour differ from those of before."""
    [own] = [thing for thing in scene.things if thing.place == place]
    others = [thing for thing in scene.things if thing is not own and share_covered(thing, mask) <= STAYS]
    colours = [colour for colour in COLOURS if colour not in (scene.ground, own.colour)]
    shapes = [shape for shape in SHAPES if shape != own.shape]
    sizes = {shape: _fitting_sizes(replace(own, shape=shape), mask) for shape in shapes}

    def draw() -> Scene:
        shape = rng.choice(shapes)
        things = [Thing(rng.choice(colours), shape, place, rng.choice(sizes[shape])), *others]
        rng.shuffle(things)
        return replace(scene, things=tuple(things))

    return draw


class FreshPrompts:
    """The prompts of one of ``slots`` slots; none repeats in it, and slots share none as long as the words suffice."""

    def __init__(self, slot: int, slots: int) -> None:
        self._slot, self._slots = slot, slots
        self._seen: set[str] = set()

    def fresh(self, draw: Callable[[], str]) -> str:
        """Return the first new prompt that ``draw`` yields.  Raises ValueError where there is none.

        Each slot has prompts of its own; a slot that needs more takes those of others.
        """
        for is_own in (True, False):
            for _ in range(TRIES):
                prompt = draw()
                if prompt not in self._seen and (not is_own or crc32(prompt.encode()) % self._slots == self._slot):
                    self._seen.add(prompt)
                    return prompt
        raise ValueError(f"no fresh prompt after {len(self._seen)}, only such as '{draw()}'")


def _fitting_sizes(thing: Thing, mask: np.ndarray) -> list[str]:
    """Return the sizes in which a thing lies in the mask; the smallest where none does."""
    fitting = [size for size in SIZES if share_covered(replace(thing, size=size), mask) >= FITS]
    return fitting or [SIZES[0]]
