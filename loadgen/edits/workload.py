"""Deals edits: seeds as suite ``mixed`` does, templates by popularity, masks as large as in production.

An edit replaces one thing of its template: its mask lies over that thing's place, and its prompt describes the edited
image.  The pattern that all probes of a round share fixes how large each mask is, for that decides a request's cost;
each phase draws anew its template, the mask's place and the prompt.  Warm-up requests go through the templates in turn.
"""

import itertools
import random
from collections.abc import Callable, Iterator

import numpy as np

from loadgen.edits.changes import FreshPrompts, scene_changes
from loadgen.edits.masks import draw_mask, mask_file
from loadgen.edits.plan import EditsPlan
from loadgen.edits.request import EditRequest
from loadgen.edits.scenes import place_centre, template_scene
from loadgen.edits.templates import template_caption
from loadgen.edits.wording import caption
from loadgen.mixed.objective import SOLO_PROMPT
from loadgen.mixed.plan import MixedSuite
from loadgen.mixed.workload import PHASES, SLOTS, WARM_UP, Workload
from loadgen.traffic import ImageRequest

OFFSET = 0.03  # of a side, how far a mask's middle may be from the place it covers
Choose = Callable[[Callable[[], str]], str]  # chooses one of the prompts that a function draws


class EditsWorkload:
    """The requests of a suite of edits."""

    def __init__(self, suite: MixedSuite, plan: EditsPlan, seed: int) -> None:
        self._plain = Workload(suite, seed)
        self._suite, self._plan, self._seed = suite, plan, seed

    def arrival_rng(self, round_number: int, phase: int) -> random.Random:
        """Return the generator that times a phase's arrivals."""
        return self._plain.arrival_rng(round_number, phase)

    def requests(self, round_number: int, phase: int, count: int) -> list[ImageRequest]:
        """Return the first ``count`` requests of a phase.  Raises ValueError where there are not so many prompts."""
        sizes = _generator(f"{self._plain.pattern(round_number, phase)}/masks")
        places = _generator(f"{self._seed}/{round_number}/{phase}/masks")
        popularity = _generator(f"{self._seed}/{round_number}/{phase}/templates")
        words = random.Random(f"{self._seed}/{round_number}/{phase}/words")
        templates = itertools.cycle(range(self._plan.templates)) if phase == WARM_UP else self._popular(popularity)
        plain = self._plain.requests(round_number, phase, count)
        prompts = FreshPrompts(round_number * PHASES + phase, SLOTS)
        return [
            self._edit(request, template, self._plan.ratios.draw(sizes), places, words, prompts.fresh)
            for request, template in zip(plain, templates, strict=False)
        ]

    def solo_grid(self) -> list[ImageRequest]:
        """Return one request: an edit costs the baseline the same whatever its mask."""
        return [self.sample(self._plan.ratios.mean)]

    def sample(self, ratio: float) -> EditRequest:
        """Return an edit of the first template with a mask of this ratio."""
        side, seed = self._plan.side, f"{self._seed}/sample"
        plain = ImageRequest(SOLO_PROMPT, side, side, self._suite.most_steps, self._suite.guidance, 0)
        return self._edit(plain, 0, ratio, _generator(seed), random.Random(seed), choose=lambda draw: draw())

    def _popular(self, rng: np.random.Generator) -> Iterator[int]:
        weights = 1.0 / np.arange(1, self._plan.templates + 1) ** self._plan.zipf
        while True:
            yield int(rng.choice(len(weights), p=weights / weights.sum()))

    def _edit(
        self,
        plain: ImageRequest,
        template: int,
        ratio: float,
        rng: np.random.Generator,
        words: random.Random,
        choose: Choose,
    ) -> EditRequest:
        scene = template_scene(template)
        place = words.choice(scene.things).place
        x, y = place_centre(place) + rng.uniform(-OFFSET, OFFSET, size=2)
        mask = draw_mask(ratio, plain.width, plain.height, rng, (float(x), float(y)))
        draw = scene_changes(scene, place, mask, words)
        return EditRequest(
            prompt=choose(lambda: caption(draw(), words)),
            width=plain.width,
            height=plain.height,
            steps=plain.steps,
            guidance=plain.guidance,
            seed=plain.seed,
            template=template,
            mask=mask_file(mask),
            mask_ratio=float(mask.mean()),
            mask_feather=self._plan.mask_feather,
            caption=template_caption(template) if self._plan.captioned else "",
        )


def _generator(seed: str) -> np.random.Generator:
    return np.random.default_rng(random.Random(seed).getrandbits(64))
