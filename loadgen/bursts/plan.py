"""The suites of bursts, as values."""

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

from loadgen.traffic import ClosedLoop, ImageRequest, prompts


@dataclass(frozen=True, slots=True)
class Suite:
    """One comparison: its requests, the baseline's thread counts, and how often it is repeated."""

    name: str
    title: str
    model: str
    arrivals: ClosedLoop
    width: int
    height: int
    steps: int
    guidance: float
    baseline_threads: tuple[int, ...]
    rounds: int
    bursts: int
    quick_bursts: int
    slo_scale: float

    def traffic(self, seed: int) -> Iterator[list[ImageRequest]]:
        """Yield the requests of one burst after the other; no prompt and no seed occurs twice."""
        rng = random.Random(seed)
        scenes = prompts(rng)
        seeds = itertools.count(rng.randrange(2**31))
        while batch := list(itertools.islice(scenes, self.arrivals.requests)):
            yield [
                ImageRequest(prompt, self.width, self.height, self.steps, self.guidance, next(seeds))
                for prompt in batch
            ]


FIRST = Suite(
    name="first",
    title="Eight images at once",
    model="lego-tiny",
    arrivals=ClosedLoop(requests=8, outstanding=8),
    width=128,
    height=128,
    steps=20,
    guidance=4.0,
    baseline_threads=(1, 2),
    rounds=3,
    bursts=5,
    quick_bursts=2,
    slo_scale=5.0,
)

SUITES = {suite.name: suite for suite in (FIRST,)}
