"""The requests of every phase, the same for both sides, whatever the one before took.

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
    """What decides a request's cost."""

    width: int
    height: int
    steps: int
    guidance: float


class Dealer(Protocol):
    """Deals a suite's requests."""

    def requests(self, round_number: int, phase: int, count: int) -> list[ImageRequest]:
        """The first ``count`` requests of a phase."""
        ...

    def gaps(self, round_number: int, phase: int) -> random.Random:
        """The chance by which a phase's requests fall due."""
        ...

    def solo_grid(self) -> list[ImageRequest]:
        """One request of each kind at the fewest and at the most steps, for the objective."""
        ...


class Workload:
    """Deals the requests of suite ``mixed``."""

    def __init__(self, suite: MixedSuite, seed: int) -> None:
        self._suite = suite
        self._seed = seed
        self._prompts = pair_prompts(random.Random(seed))

    def requests(self, round_number: int, phase: int, count: int) -> list[ImageRequest]:
        """The first ``count`` requests of a phase; ValueError for more prompts than there are."""
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

    def gaps(self, round_number: int, phase: int) -> random.Random:
        """The chance by which a phase's requests fall due."""
        return random.Random(f"{self.pattern(round_number, phase)}/gaps")

    def solo_grid(self) -> list[ImageRequest]:
        """Every size, with and without guidance, at the fewest and the most steps."""
        return solo_grid(self._suite)

    def shapes(self, round_number: int, phase: int) -> Iterator[Shape]:
        """Sizes, steps and guidances without end; in every hand all classes come equally often."""
        rng = random.Random(self.pattern(round_number, phase))
        every = self._suite.without_guidance_every
        while True:
            hand = [
                Shape(
                    *rng.choice(kind.sizes),
                    rng.randint(self._suite.fewest_steps, self._suite.most_steps),
                    1.0 if every and place == 0 else self._suite.guidance,
                )
                for kind in self._suite.classes
                for place in range(every or 1)
            ]
            rng.shuffle(hand)
            yield from hand

    def pattern(self, round_number: int, phase: int) -> str:
        """What the chance of costs and gaps derives from: the same for all probes of a round."""
        return f"{self._seed}/{round_number}/{min(phase, FIRST_PROBE)}"
