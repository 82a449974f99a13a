"""Deals the requests of every phase, the same for both systems, however long the phase before took.

A *pattern* fixes sizes, steps, guidances and the gaps between requests; a *slot* fixes prompts and seeds.  All
probes of one round share a pattern, so that rates are compared under the same mix; each has a slot of its own,
so that no prompt ever comes twice and no cache helps.
"""

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from loadgen.mixed.objective import solo_grid
from loadgen.mixed.plan import MixedSuite
from loadgen.traffic import ImageRequest, pair_prompts

PHASES = 16  # slots of a round
SLOTS = 4 * PHASES
CLOSED, RATED, WARM_UP, FIRST_PROBE = range(4)
ALONE = PHASES - 1


@dataclass(frozen=True, slots=True)
class Shape:
    """The fields of a request that decide its cost."""

    width: int
    height: int
    steps: int
    guidance: float


class RequestSource(Protocol):
    """The source of a suite's requests."""

    def requests(self, round_number: int, phase: int, count: int) -> list[ImageRequest]:
        """Return the first ``count`` requests of a phase."""
        ...

    def arrival_rng(self, round_number: int, phase: int) -> random.Random:
        """Return the generator that times a phase's arrivals."""
        ...

    def solo_grid(self) -> list[ImageRequest]:
        """Return one request of each kind at the fewest and at the most steps, for the objective."""
        ...


class Workload:
    """The requests of suite ``mixed``."""

    def __init__(self, suite: MixedSuite, seed: int) -> None:
        self._suite = suite
        self._seed = seed
        self._prompts = pair_prompts(random.Random(seed))

    def requests(self, round_number: int, phase: int, count: int) -> list[ImageRequest]:
        """Return the first ``count`` requests of a phase.  Raises ValueError where there are not so many prompts."""
        slot = round_number * PHASES + phase
        prompts = self._prompts[slot::SLOTS]
        if slot >= SLOTS or count > len(prompts):
            raise ValueError(f"no {count} fresh prompts for phase {phase} of round {round_number}")
        seeds = itertools.count(random.Random(f"{self._seed}/{slot}").randrange(2**31))
        drawn = zip(prompts, self.shapes(round_number, phase), seeds, strict=False)
        return [
            ImageRequest(prompt, shape.width, shape.height, shape.steps, shape.guidance, seed)
            for prompt, shape, seed in itertools.islice(drawn, count)
        ]

    def arrival_rng(self, round_number: int, phase: int) -> random.Random:
        """Return the generator that times a phase's arrivals."""
        return random.Random(f"{self.pattern(round_number, phase)}/gaps")

    def solo_grid(self) -> list[ImageRequest]:
        """Return every size, with and without guidance, at the fewest and the most steps."""
        return solo_grid(self._suite)

    def shapes(self, round_number: int, phase: int) -> Iterator[Shape]:
        """Yield sizes, steps and guidances without end; every batch has all classes equally often."""
        rng = random.Random(self.pattern(round_number, phase))
        every = self._suite.without_guidance_every
        while True:
            batch = [
                Shape(
                    *rng.choice(kind.sizes),  # width and height
                    rng.randint(self._suite.fewest_steps, self._suite.most_steps),
                    1.0 if every and index == 0 else self._suite.guidance,
                )
                for kind in self._suite.classes
                for index in range(every or 1)
            ]
            rng.shuffle(batch)
            yield from batch

    def pattern(self, round_number: int, phase: int) -> str:
        """Return the seed of costs and arrivals, which all probes of a round share."""
        return f"{self._seed}/{round_number}/{min(phase, FIRST_PROBE)}"
