"""Counts how many held-out prompts lego-tiny draws right: colour, shape, place, size and ground, all at once."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lego_serve.zoo.judge.parse import read_image
from lego_serve.zoo.world.captions import RELATIONS, caption, relation_of, says
from lego_serve.zoo.world.scenes import Scene, Thing, sample_scenes

BATCH = 16
POOL = 150  # of each kind; the words of a caption depend on how many are drawn
KINDS = {"one_object": 1, "two_objects": 2}
# Prompts, their seeds and the side in pixels to images (prompts, side, side, 3) of 8 bits.
Generate = Callable[[Sequence[str], Sequence[int], int], np.ndarray]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A complete caption and its scene."""

    text: str
    scene: Scene


def held_out_prompts(things: int, count: int) -> list[Prompt]:
    """Return the same prompts every time, of scenes that training never saw."""
    rng = random.Random(f"judge {things}")
    scenes = sample_scenes(rng, count, things, held_out=True)
    return [Prompt(caption(scene, rng, complete=True), scene) for scene in scenes]


def mixed_prompts(count: int) -> list[Prompt]:
    """Return held-out prompts, of one object and of two in turn; up to twice POOL, more are fewer and others."""
    kinds = [held_out_prompts(things, max(POOL, -(-count // 2))) for things in KINDS.values()]
    return [prompt for pair in zip(*kinds, strict=True) for prompt in pair][:count]


def faults(prompt: Prompt, pixels: np.ndarray) -> list[str]:
    """Return the names of the attributes that are wrong in an image; none when it is right."""
    return scene_faults(prompt.scene, pixels, by_relation="place" not in says(prompt.text))


def scene_faults(wanted: Scene, pixels: np.ndarray, *, by_relation: bool = False) -> list[str]:
    """Return what is wrong in an image of a scene; ``by_relation``: the prompt gave the things' relation, no places."""
    reading = read_image(pixels)
    seen = reading.scene
    wrong = [] if wanted.ground == seen.ground else ["ground"]
    if len(seen.things) != len(wanted.things):
        return [*wrong, "count"]
    orders = [seen.things] if len(seen.things) == 1 else [seen.things, seen.things[::-1]]
    best = min((_thing_faults(wanted.things, order, by_relation) for order in orders), key=len)
    return [*wrong, *best, *([] if reading.is_clear else ["clarity"])]


def _thing_faults(wanted: Sequence[Thing], found: Sequence[Thing], by_relation: bool) -> list[str]:
    wrong = []
    for wanted_thing, found_thing in zip(wanted, found, strict=True):
        names = ("colour", "shape", "size") if by_relation else ("colour", "shape", "size", "place")
        wrong += [name for name in names if getattr(wanted_thing, name) != getattr(found_thing, name)]
    if by_relation:
        first, second = wanted
        wanted_signs, found_signs = relation_of(first, second), relation_of(*found)
        # "above" and "left of" leave the other axis open.
        if any(sign not in (0, seen) for sign, seen in zip(wanted_signs, found_signs, strict=True)):
            wrong.append("relation")
        assert wanted_signs in RELATIONS
    return wrong


@dataclass(frozen=True, slots=True)
class Verdict:
    """The image of one prompt and its faults."""

    side: int
    kind: str
    prompt: Prompt
    pixels: np.ndarray
    faults: tuple[str, ...]


def judge(generate: Generate, sides: Sequence[int], count: int) -> Iterator[Verdict]:
    """Generate and judge ``count`` prompts of each kind at each side; verdicts come as they are made."""
    for side in sides:
        for kind, things in KINDS.items():
            prompts = held_out_prompts(things, count)
            for first in range(0, count, BATCH):
                batch = prompts[first : first + BATCH]
                images = generate([p.text for p in batch], range(first, first + len(batch)), side)
                for prompt, pixels in zip(batch, images, strict=True):
                    yield Verdict(side, kind, prompt, pixels, tuple(faults(prompt, pixels)))


def table(verdicts: Sequence[Verdict]) -> dict[str, dict[str, dict[str, int]]]:
    """Return by side and kind how many are right of how many."""
    counts: dict[str, dict[str, dict[str, int]]] = {}
    for verdict in verdicts:
        cell = counts.setdefault(str(verdict.side), {}).setdefault(verdict.kind, {"right": 0, "of": 0})
        cell["of"] += 1
        cell["right"] += not verdict.faults
    return counts
