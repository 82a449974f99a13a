"""Trains the residuals of layers in 2:4 together, on what the model's guided velocity loses by all of them.

Each was fitted by itself, to rows as they are without the others' errors.  An update takes a few images of a lesson at
one of their steps and follows the gradient of the velocity's error; the training is bounded by time and goes on from
where it stopped.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from lego_serve.models.ragged.linear_kinds.sparse24_rows import Residual
from lego_serve.tuning import training_state
from lego_serve.tuning.lessons import Lesson, Lessons
from lego_serve.tuning.sparse24.sparse_pass import SparsePass

BATCH = 4
RATE = 1e-3  # Adam's learning rate, which falls to nothing over the second half
SAVE_EVERY = 20  # updates


@dataclass(slots=True)
class ResidualTrainer:
    """Residuals under training: what is learned, of which lessons, for how long, and the file of the state.

    The first lesson is held out; ``updates`` follow each new one, at most ``most`` are made.
    """

    file: Path
    model: SparsePass
    lessons: Lessons
    steps: int
    seconds: float
    updates: int = 24
    most: int = 24
    clock: Callable[[], float] = time.monotonic
    report: Callable[[str], object] = print
    losses: list[float] = field(default_factory=list)

    def run(self) -> dict[str, Residual]:
        """Learn (or go on learning) on one thread until the time is over; return the residuals.  Raises LegoError."""
        torch.set_num_threads(1)
        weights = self.model.weights
        optimizer = torch.optim.Adam(weights, RATE)
        update, spent_s = training_state.resume(self.file, weights, optimizer)
        began_s = self.clock() - spent_s
        while (spent_s := self.clock() - began_s) < self.seconds:
            lessons = self.lessons.first(min(self.most, 2 + update // self.updates))[1:]
            self._update(random.Random(f"sparse24 {update}"), lessons, optimizer, spent_s / self.seconds)
            update += 1
            if update % SAVE_EVERY == 0:
                training_state.save(self.file, weights, optimizer, update, self.clock() - began_s)
                recent = sum(self.losses[-SAVE_EVERY:]) / len(self.losses[-SAVE_EVERY:])
                self.report(f"{update} updates in {spent_s:.0f} of {self.seconds:.0f} s, loss {recent:.6f}")
        training_state.save(self.file, weights, optimizer, update, max(spent_s, self.seconds))
        return {name: Residual(each.a.detach(), each.b.detach()) for name, each in self.model.residuals.items()}

    def _update(
        self, rng: random.Random, lessons: list[Lesson], optimizer: torch.optim.Optimizer, progress: float
    ) -> None:
        lesson, step = rng.choice(lessons), rng.randrange(self.steps)
        images = rng.sample(range(lesson.latents.shape[1]), min(BATCH, lesson.latents.shape[1]))
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, 2 * (1 - progress))
        loss = self.model.loss(lesson.examples(step, images))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.weights, 1.0)
        optimizer.step()
        self.losses.append(loss.item())
