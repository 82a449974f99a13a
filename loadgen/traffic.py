"""Image requests, and the arrival processes that say when each is due; randomness comes in as ``rng``."""

import itertools
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
SHAPES = ("circle", "square", "triangle")
SIZES = ("small", "large")
RELATIONS = ("to the left of", "to the right of", "above", "below")
PLACES = ("in the centre", "on the left", "on the right", "at the top", "at the bottom")


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """One image to make, the same for both systems of a comparison."""

    prompt: str
    width: int
    height: int
    steps: int
    guidance: float
    seed: int

    @property
    def addons(self) -> tuple[int, int]:
        """How many ControlNets and adapters the request has; they add to its cost."""
        return 0, 0

    @property
    def path(self) -> str:
        """The path that the request is posted to."""
        return "/v1/images/generations"

    @property
    def files(self) -> Mapping[str, tuple[str, bytes, str]]:
        """Files by field, each a name, content and media type; a request with files is a form, else it is JSON."""
        return {}

    def body(self, model: str) -> dict[str, object]:
        """Return the fields of the request, without its files."""
        return {
            "model": model,
            "prompt": self.prompt,
            "size": f"{self.width}x{self.height}",
            "num_inference_steps": self.steps,
            "guidance_scale": self.guidance,
            "seed": self.seed,
        }


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """Arrivals that keep ``outstanding`` requests in flight: the next is due when one is answered.

    With as many outstanding as there are requests it is a burst.
    """

    requests: int
    outstanding: int


@dataclass(frozen=True, slots=True)
class Poisson:
    """Open-loop arrivals: requests fall due at random and independently, ``requests`` of them at a fixed mean rate.

    It is a Poisson process conditioned on its count: the offered rate is exact, not a draw around it, so that two
    servers probed at one rate with different numbers of requests bear the same load.
    """

    requests: int
    rate_rps: float

    def times_s(self, rng: random.Random) -> list[float]:
        """Return when each request is due, in seconds from the start, ascending."""
        gaps = [rng.expovariate(1.0) for _ in range(self.requests + 1)]
        scale = self.requests / self.rate_rps / sum(gaps)
        return [scale * time for time in itertools.accumulate(gaps[:-1])]


class OpenLoop(Protocol):
    """Arrivals that fall due whatever the server does."""

    def times_s(self, rng: random.Random) -> list[float]:
        """Return when each request is due, in seconds from the start, ascending."""
        ...


Arrivals = ClosedLoop | OpenLoop


def prompts(rng: random.Random) -> Iterator[str]:
    """Yield prompts of coloured shapes in random order, each at most once, so that no cache sees one twice."""
    scenes = [
        f"a {size} {colour} {shape} {place}, {ground} background"
        for size in SIZES
        for colour in COLOURS
        for shape in SHAPES
        for place in PLACES
        for ground in COLOURS
        if ground != colour
    ]
    rng.shuffle(scenes)
    yield from scenes


def pair_prompts(rng: random.Random) -> list[str]:
    """Return tens of thousands of prompts of two shapes in random order, each once: enough for a search over rates."""
    colours, shapes = (*COLOURS, "white", "black"), (*SHAPES, "cross")
    things = [(colour, f"a {size} {colour} {shape}") for size in SIZES for colour in colours for shape in shapes]
    scenes = [
        f"{first} {relation} {second}, {ground} background"
        for first_colour, first in things
        for second_colour, second in things
        for relation in RELATIONS
        for ground in colours
        if ground not in (first_colour, second_colour)
    ]
    rng.shuffle(scenes)
    return scenes
