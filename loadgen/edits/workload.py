"""Deals edits: seeds as suite ``mixed`` does, templates by popularity, masks as large as in production.

An edit replaces one thing of its template: its mask lies over that thing's place, and its prompt says the image as
it is to be.  The pattern that all probes of a round share fixes how large each mask is, for that decides a request's
cost; where it lies, which template it is on and what it asks for are drawn anew for each phase.  What warms up asks
for one template after the other.
"""

import itertools
import random
from collections.abc import Callable, Iterator

import numpy as np

from loadgen.edits.changes import FreshPrompts, changed
from loadgen.edits.plan import EditsPlan
from loadgen.edits.request import EditRequest
from loadgen.edits.scenes import middle_of, scene_of
from loadgen.edits.templates import template_caption
from loadgen.edits.wording import caption
from loadgen.masks import draw_mask, mask_file
from loadgen.mixed.objective import SOLO_PROMPT
from loadgen.mixed.plan import MixedSuite
from loadgen.mixed.workload import PHASES, SLOTS, WARM_UP, Workload
from loadgen.traffic import ImageRequest

ASIDE = 0.03  # of a side, how far a mask's middle may be from that of what it is to cover
Choose = Callable[[Callable[[], str]], str]  # one of the prompts that a function draws


class EditsWorkload:
    """Deals requests by phase."""

    def __init__(self, suite: MixedSuite, plan: EditsPlan, seed: int) -> None:
        self._plain = Workload(suite, seed)
        self._suite, self._plan, self._seed = suite, plan, seed

    def gaps(self, round_number: int, phase: int) -> random.Random:
        """The chance by which a phase's requests fall due."""
        return self._plain.gaps(round_number, phase)

    def requests(self, round_number: int, phase: int, count: int) -> list[ImageRequest]:
        """The first ``count`` requests of a phase; ValueError for more prompts than there are."""
        sizes = _chance(f"{self._plain.pattern(round_number, phase)}/masks")
        places = _chance(f"{self._seed}/{round_number}/{phase}/masks")
        drawn = _chance(f"{self._seed}/{round_number}/{phase}/templates")
        words = random.Random(f"{self._seed}/{round_number}/{phase}/words")
        templates = itertools.cycle(range(self._plan.templates)) if phase == WARM_UP else self._popular(drawn)
        plain = self._plain.requests(round_number, phase, count)
        prompts = FreshPrompts(round_number * PHASES + phase, SLOTS)
        return [
            self._edit(request, template, self._plan.ratios.draw(sizes), places, words, prompts.fresh)
            for request, template in zip(plain, templates, strict=False)
        ]

    def solo_grid(self) -> list[ImageRequest]:
        """One request: whatever its mask, an edit costs the baseline the same."""
        return [self.sample(self._plan.ratios.mean)]

    def sample(self, ratio: float) -> EditRequest:
        """An edit of the first template with a mask so large."""
        side, suite, name = self._plan.side, self._suite, f"{self._seed}/sample"
        plain = ImageRequest(SOLO_PROMPT, side, side, suite.most_steps, suite.guidance, 0)
        return self._edit(plain, 0, ratio, _chance(name), random.Random(name), lambda draw: draw())

    def _popular(self, chance: np.random.Generator) -> Iterator[int]:
        weights = 1.0 / np.arange(1, self._plan.templates + 1) ** self._plan.zipf
        while True:
            yield int(chance.choice(len(weights), p=weights / weights.sum()))

    def _edit(
        self,
        plain: ImageRequest,
        template: int,
        ratio: float,
        chance: np.random.Generator,
        words: random.Random,
        choose: Choose,
    ) -> EditRequest:
        scene = scene_of(template)
        place = words.choice(scene.things).place
        x, y = middle_of(place) + chance.uniform(-ASIDE, ASIDE, size=2)
        mask = draw_mask(ratio, plain.width, plain.height, chance, (float(x), float(y)))
        after = changed(scene, place, mask, words)
        return EditRequest(
            choose(lambda: caption(after(), words)),
            plain.width, plain.height, plain.steps, plain.guidance, plain.seed,
            template, mask_file(mask), float(mask.mean()), self._plan.mask_feather,
            caption=template_caption(template) if self._plan.captioned else "",
        )  # fmt: skip


def _chance(name: str) -> np.random.Generator:
    return np.random.default_rng(random.Random(name).getrandbits(64))
