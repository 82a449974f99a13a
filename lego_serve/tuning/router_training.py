"""Trains the router of rows per block: which rows of an image a block had better compute, by what is lost without them.

The model's weights stay as they are.  Lessons are the model's own trajectories with all steps and rows; an update takes
a few images at one of their steps, chooses the rows of the plan for it, and follows the gradient of the error of the
guided velocity (``pruned_pass``).  Teaching and learning take turns and are bounded by time.
"""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from lego_serve.core.tiers.block_rows import BlockRows
from lego_serve.engine.offline import OfflinePipeline
from lego_serve.models.ragged.batch_invariant import LinearOps
from lego_serve.models.ragged.pruning.router import BlockRouter, Scorer
from lego_serve.tuning import training_state
from lego_serve.tuning.lessons import Lesson, Lessons
from lego_serve.tuning.pruned_pass import PrunedPass, Score, random_score, router_score
from lego_serve.tuning.trajectories import Calibration

BATCH = 4
RATE, NOISE = 1e-2, 0.1  # Adam's learning rate, and the scores' noise at first; both fall to nothing
SAVE_EVERY = 20  # updates


@dataclass(frozen=True, slots=True)
class RouterPlan:
    """The rows to train for and for how long; ``updates`` follow each new lesson, at most ``lessons`` are made."""

    rows: BlockRows
    seconds: float
    updates: int = 24
    lessons: int = 24


@dataclass(frozen=True, slots=True)
class TrainedRouter:
    """A router after so many updates, and the held-out loss by the kind of rows: trained, untrained, random."""

    router: BlockRouter
    updates: int
    losses: dict[str, float]


@dataclass(slots=True)
class RouterTrainer:
    """A router under training: the model as it draws and as it learns, what of, and where the state is kept.

    The first lesson is held out.
    """

    folder: Path
    pipeline: OfflinePipeline
    model: PrunedPass
    images: Calibration
    steps: int
    sampler: str
    plan: RouterPlan
    clock: Callable[[], float] = time.monotonic
    report: Callable[[str], object] = print
    losses: list[float] = field(default_factory=list)
    _lessons: Lessons = field(init=False)

    def __post_init__(self) -> None:
        self._lessons = Lessons(self.folder, self.pipeline, self.images, self.steps, self.sampler)

    def run(self) -> TrainedRouter:
        """Learn (or go on learning) on one thread until the time is over.  Raises LegoError."""
        torch.set_num_threads(1)
        self.folder.mkdir(parents=True, exist_ok=True)
        router = _trainable(BlockRouter.drawn(self.plan.rows.blocks, self.model.width, seed=0))
        weights = [part for scorer in router.scorers for part in scorer.parts]
        optimizer = torch.optim.Adam(weights, RATE)
        state = self.folder / "state.safetensors"
        update, spent_s = training_state.resume(state, weights, optimizer)
        began_s = self.clock() - spent_s
        while (spent_s := self.clock() - began_s) < self.plan.seconds:
            lessons = self._lessons.first(min(self.plan.lessons, 2 + update // self.plan.updates))[1:]
            self._update(router, optimizer, lessons, update, spent_s / self.plan.seconds)
            update += 1
            if update % SAVE_EVERY == 0:
                training_state.save(state, weights, optimizer, update, self.clock() - began_s)
                recent = sum(self.losses[-SAVE_EVERY:]) / len(self.losses[-SAVE_EVERY:])
                self.report(f"{update} updates in {spent_s:.0f} of {self.plan.seconds:.0f} s, loss {recent:.5f}")
        training_state.save(state, weights, optimizer, update, self.plan.seconds)
        return TrainedRouter(_frozen(router), update, self.held_out(router))

    @torch.no_grad()
    def held_out(self, router: BlockRouter) -> dict[str, float]:
        """Return the loss on images that nothing was learned from, of these rows, untrained ones and random ones."""
        untrained = BlockRouter.drawn(router.blocks, router.width, seed=0)
        scores = {"trained": router_score(router), "untrained": router_score(untrained), "random": random_score(0)}
        return {name: self._mean_loss(score) for name, score in scores.items()}

    def _mean_loss(self, score: Score) -> float:
        steps = range(1, self.steps, max(1, self.steps // 8))
        [lesson] = self._lessons.first(1)
        images = list(range(lesson.latents.shape[1]))
        losses = [self.model.loss(lesson.examples(step, images), self._rows(lesson, step), score) for step in steps]
        return float(torch.stack(losses).mean())

    def _rows(self, lesson: Lesson, step: int) -> tuple[int, ...]:
        return self.plan.rows.rows(self.steps - step, self.model.tokens(lesson.latents))

    def _update(
        self,
        router: BlockRouter,
        optimizer: torch.optim.Optimizer,
        lessons: Sequence[Lesson],
        update: int,
        progress: float,
    ) -> None:
        rng, draw = random.Random(f"prune {update}"), torch.Generator().manual_seed(update)
        lesson, step = rng.choice(lessons), rng.randrange(1, self.steps)
        images = rng.sample(range(lesson.latents.shape[1]), min(BATCH, lesson.latents.shape[1]))
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, 2 * (1 - progress))
        score = router_score(router, NOISE * (1 - progress), draw)
        loss = self.model.loss(lesson.examples(step, images), self._rows(lesson, step), score)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_([part for each in router.scorers for part in each.parts], 1.0)
        optimizer.step()
        self.losses.append(loss.item())


def _trainable(router: BlockRouter) -> BlockRouter:
    scorers = tuple(Scorer(*(part.requires_grad_() for part in each.parts)) for each in router.scorers)
    return BlockRouter(scorers, LinearOps(batch_invariant=False))


def _frozen(router: BlockRouter) -> BlockRouter:
    return BlockRouter(tuple(Scorer(*(part.detach() for part in each.parts)) for each in router.scorers))
