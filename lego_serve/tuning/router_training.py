"""Trains the router of rows per block: which rows of an image a block had better compute, by what is lost without them.

The model's weights stay as they are.  Lessons are the model's own trajectories with all steps and rows; an update takes
a few images at one of their steps, chooses the rows of the plan for it, and follows the gradient of the error of the
guided velocity (``pruned_pass``).  Teaching and learning take turns and are bounded by time.
"""

import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lego_serve.core.tiers.block_rows import BlockRows
from lego_serve.engine.offline import OfflinePipeline
from lego_serve.models.ragged.batch_invariant import LinearOps
from lego_serve.models.ragged.pruning.router import BlockRouter, Scorer
from lego_serve.tuning.pruned_pass import Examples, PrunedPass, Score, random_score, router_score
from lego_serve.tuning.trajectories import Calibration, trajectories

LESSON_IMAGES, BATCH = 8, 4
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
class Lesson:
    """Trajectories: latents (sigmas, images, channels, height, width) at ``sigmas``, and the texts as in Examples."""

    sigmas: torch.Tensor
    latents: torch.Tensor
    tokens: torch.Tensor
    pooled: torch.Tensor
    guidance: float

    @property
    def branches(self) -> int:
        """The number of branches of an image."""
        return len(self.tokens) // self.latents.shape[1]

    def examples(self, step: int, images: list[int]) -> Examples:
        """Return some of its images at a step."""
        count = self.latents.shape[1]
        rows = [branch * count + image for branch in range(self.branches) for image in images]
        sigma = float(self.sigmas[step])
        return Examples(self.latents[step, images], sigma, self.tokens[rows], self.pooled[rows], self.guidance)


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
    lessons: list[Lesson] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def run(self) -> TrainedRouter:
        """Learn (or go on learning) on one thread until the time is over.  Raises LegoError."""
        torch.set_num_threads(1)
        self.folder.mkdir(parents=True, exist_ok=True)
        router = _trainable(BlockRouter.drawn(self.plan.rows.blocks, self.model.width, seed=0))
        weights = [part for scorer in router.scorers for part in scorer.parts]
        optimizer = torch.optim.Adam(weights, RATE)
        update, spent_s = self._resume(weights, optimizer)
        began_s = self.clock() - spent_s
        while (spent_s := self.clock() - began_s) < self.plan.seconds:
            self._learn_from(min(self.plan.lessons, 2 + update // self.plan.updates))
            self._update(router, optimizer, update, spent_s / self.plan.seconds)
            update += 1
            if update % SAVE_EVERY == 0:
                self._save(weights, optimizer, update, self.clock() - began_s)
                recent = sum(self.losses[-SAVE_EVERY:]) / len(self.losses[-SAVE_EVERY:])
                self.report(f"{update} updates in {spent_s:.0f} of {self.plan.seconds:.0f} s, loss {recent:.5f}")
        self._save(weights, optimizer, update, self.plan.seconds)
        return TrainedRouter(_frozen(router), update, self.held_out(router))

    @torch.no_grad()
    def held_out(self, router: BlockRouter) -> dict[str, float]:
        """Return the loss on images that nothing was learned from, of these rows, untrained ones and random ones."""
        self._learn_from(1)
        untrained = BlockRouter.drawn(router.blocks, router.width, seed=0)
        scores = {"trained": router_score(router), "untrained": router_score(untrained), "random": random_score(0)}
        return {name: self._mean_loss(score) for name, score in scores.items()}

    def _mean_loss(self, score: Score) -> float:
        steps = range(1, self.steps, max(1, self.steps // 8))
        images = list(range(self.lessons[0].latents.shape[1]))
        losses = [self.model.loss(self.lessons[0].examples(step, images), self._rows(step), score) for step in steps]
        return float(torch.stack(losses).mean())

    def _rows(self, step: int) -> tuple[int, ...]:
        return self.plan.rows.rows(self.steps - step, self.model.tokens(self.lessons[0].latents))

    def _update(self, router: BlockRouter, optimizer: torch.optim.Optimizer, update: int, progress: float) -> None:
        rng, draw = random.Random(f"prune {update}"), torch.Generator().manual_seed(update)
        lesson, step = rng.choice(self.lessons[1:]), rng.randrange(1, self.steps)
        images = rng.sample(range(lesson.latents.shape[1]), min(BATCH, lesson.latents.shape[1]))
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, 2 * (1 - progress))
        score = router_score(router, NOISE * (1 - progress), draw)
        loss = self.model.loss(lesson.examples(step, images), self._rows(step), score)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_([part for each in router.scorers for part in each.parts], 1.0)
        optimizer.step()
        self.losses.append(loss.item())

    def _learn_from(self, count: int) -> None:
        """Have so many lessons: made where they do not lie in the folder, of prompts in turn."""
        for index in range(len(self.lessons), count):
            file = self.folder / f"lesson{index:03d}.safetensors"
            if not file.exists():
                partial = file.with_suffix(".partial")
                save_file(self._lesson(index), partial)
                partial.replace(file)
            self.lessons.append(Lesson(**load_file(file), guidance=self.images.guidance))

    def _lesson(self, index: int) -> dict[str, torch.Tensor]:
        first = index * LESSON_IMAGES
        prompts = [self.images.prompts[(first + i) % len(self.images.prompts)] for i in range(LESSON_IMAGES)]
        images = Calibration(
            tuple(prompts), self.images.width, self.images.height, self.images.guidance, self.images.first_seed + first
        )
        lanes = images.lanes(self.pipeline, self.steps, self.sampler)
        passed = trajectories(self.pipeline, lanes)
        negatives = [lane.negative for lane in lanes if lane.negative is not None]
        conds = [*negatives, *(lane.cond for lane in lanes)]
        return {
            "sigmas": torch.tensor(passed[0].sigmas),
            "latents": torch.stack([torch.stack(one.latents) for one in passed], dim=1).cpu(),
            "tokens": torch.stack([cond.tokens for cond in conds]).cpu().float(),
            "pooled": torch.stack([cond.pooled for cond in conds]).cpu().float(),
        }

    @property
    def _state_file(self) -> Path:
        return self.folder / "state.safetensors"

    def _resume(self, weights: list[torch.Tensor], optimizer: torch.optim.Optimizer) -> tuple[int, float]:
        """Load what was saved last, if anything, and return the updates and seconds that it had taken."""
        if not self._state_file.exists():
            return 0, 0.0
        with safe_open(self._state_file, "pt") as file:
            progress = json.loads(file.metadata()["progress"])
            kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        with torch.no_grad():
            for number, weight in enumerate(weights):
                weight.copy_(kept.pop(f"weight.{number}"))
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, value in kept.items():
            _, number, key = name.split(".")
            state.setdefault(int(number), {})[key] = value
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        return int(progress["update"]), float(progress["spent_s"])

    def _save(self, weights: list[torch.Tensor], optimizer: torch.optim.Optimizer, update: int, spent_s: float) -> None:
        partial = self._state_file.with_suffix(".partial")
        kept = {f"weight.{number}": weight.detach() for number, weight in enumerate(weights)}
        for number, values in optimizer.state_dict()["state"].items():
            kept |= {f"optimizer.{number}.{key}": value for key, value in values.items()}
        save_file(kept, partial, metadata={"progress": json.dumps({"update": update, "spent_s": spent_s})})
        partial.replace(self._state_file)


def _trainable(router: BlockRouter) -> BlockRouter:
    scorers = tuple(Scorer(*(part.requires_grad_() for part in each.parts)) for each in router.scorers)
    return BlockRouter(scorers, LinearOps(batch_invariant=False))


def _frozen(router: BlockRouter) -> BlockRouter:
    return BlockRouter(tuple(Scorer(*(part.detach() for part in each.parts)) for each in router.scorers))
