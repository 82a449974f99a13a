"""Distils lego-tiny into four evaluations without guidance: a student learns the teacher's guided trajectory.

The teacher draws on a planned grid of ten evaluations; the student's four steps are jumps between points of that grid,
and it learns the mean velocity of each jump, as in progressive distillation (Salimans and Ho, 2022), with the guidance
distilled as well (Meng et al., 2023).  At first it starts every jump from the teacher's latents, later from its own, so
that it learns to mend what its earlier steps missed.  Teaching and learning take turns and are bounded by time.
"""

import itertools
import json
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from diffusers import SD3Transformer2DModel
from safetensors.torch import load_file
from torch import nn

from lego_serve.core.tiers.book import TIERS, TierBook, TierRun
from lego_serve.core.tiers.book_json import FILE, from_json
from lego_serve.core.tiers.checkpoints import Checkpoint
from lego_serve.core.tiers.grids import Grid
from lego_serve.errors import CheckpointError
from lego_serve.models.derived.difference import write_difference
from lego_serve.models.derived.origin import Origin
from lego_serve.models.registry import BUILT_IN
from lego_serve.models.tier_files import write_book
from lego_serve.models.weights_digest import denoiser_digest
from lego_serve.zoo.architecture import build_transformer
from lego_serve.zoo.export import WEIGHTS
from lego_serve.zoo.train.frozen_family import FrozenFamily
from lego_serve.zoo.train.latents import sample_training_scenes
from lego_serve.zoo.train.optimizers import muon_and_adam, others, scale_rates, update_average
from lego_serve.zoo.train.progress import cached_tensors, load_state, recent, save_state
from lego_serve.zoo.world.captions import caption

# Ten evaluations of 28 steps, as ``tune grid`` plans them for lego-tiny; the student runs every few of them.
TEACHER_SIGMAS = (1.0, 0.98738, 0.96013, 0.92982, 0.87738, 0.79037, 0.67508, 0.51507, 0.34739, 0.19983, 0.0)
NODES = (0, 4, 6, 8, 10)  # of the teacher's points, those where the student evaluates, and the end
SIGMAS = tuple(TEACHER_SIGMAS[node] for node in NODES)
GUIDANCE = 4.0
BASE = f"{BUILT_IN}{WEIGHTS.name}"
STUDENT = WEIGHTS.with_name("lego-tiny-turbo")
STATE, TIER = "turbo.pt", "turbo"
MAX_BYTES = 6_000_000  # of the difference
PIXELS = 96 * 96, 256 * 256  # of the images that it may draw
SIDES = (128, 256, 128, 256, 192)  # of every five chunks
CHUNK_ROWS = 64 * 64  # image tokens of a chunk of trajectories
BATCH_ROWS = 6 * 288  # tokens of one evaluation of a batch
COMPLETE_RATIO = 0.7  # of captions say everything, as the judge's do
MUON_RATE, ADAM_RATE = 1e-3, 5e-4
OWN_FROM, COOL_FROM = 0.45, 0.5  # parts of the time after which the student runs its own way, and rates fall


@dataclass(frozen=True, slots=True)
class Lesson:
    """Trajectories of one image size: latents at NODES (nodes, images, channels, height, width), and the texts."""

    latents: torch.Tensor
    text: torch.Tensor
    pooled: torch.Tensor


@dataclass(frozen=True, slots=True)
class TurboPlan:
    """How long the student learns; ``updates`` optimiser steps follow each new lesson, at most ``lessons`` are made."""

    seconds: float
    updates: int = 16
    lessons: int = 160


@torch.no_grad()
def make_lesson(teacher: FrozenFamily, index: int) -> dict[str, torch.Tensor]:
    """Draw the images of one chunk of captions, none of a scene that is held out."""
    rng = random.Random(f"turbo {index}")
    side = SIDES[index % len(SIDES)]
    count = CHUNK_ROWS // (side // 16) ** 2
    scenes = sample_training_scenes(rng, count)
    texts = [caption(scene, rng, complete=rng.random() < COMPLETE_RATIO) for scene in scenes]
    text, pooled = teacher.condition([""] * count + texts)
    x = torch.randn(count, teacher.transformer.config.in_channels, side // 8, side // 8, generator=_generator(index))
    kept = [x]
    for step, (now, after) in enumerate(itertools.pairwise(TEACHER_SIGMAS), 1):
        unconditional, conditional = teacher.velocity(x.repeat(2, 1, 1, 1), now, text, pooled).chunk(2)
        x = x + (after - now) * (unconditional + GUIDANCE * (conditional - unconditional))
        if step in NODES:
            kept.append(x)
    return {"latents": torch.stack(kept).half(), "text": text[count:].half(), "pooled": pooled[count:].half()}


def student_loss(student: SD3Transformer2DModel, lesson: Lesson, rows: list[int], *, on_own: bool) -> torch.Tensor:
    """Return the error of a batch's jumps, as mean velocities; ``on_own`` starts each where the one before ended."""
    nodes = lesson.latents[:, rows].float()
    text, pooled = lesson.text[rows].float(), lesson.pooled[rows].float()
    loss, x = nodes.new_zeros(()), nodes[0]
    for index, (now, after) in enumerate(itertools.pairwise(SIGMAS)):
        start = x if on_own else nodes[index]
        times = torch.full((len(rows),), now * 1000)
        velocity = student(start, text, pooled, times, return_dict=False)[0]
        x = start + (after - now) * velocity
        loss = loss + ((x - nodes[index + 1]) / (after - now)).square().mean()
    return loss / len(NODES[1:])


@dataclass(slots=True)
class TurboTrainer:
    """A student under training, its lessons so far, and where its state is kept."""

    folder: Path
    teacher: FrozenFamily
    plan: TurboPlan
    clock: Callable[[], float] = time.monotonic
    lessons: list[Lesson] = field(default_factory=list)
    losses: list[float] = field(default_factory=lambda: [1.0])

    def run(self) -> dict[str, torch.Tensor]:
        """Learn (or go on learning) until the time is over; return the moving average of the weights."""
        self.folder.mkdir(parents=True, exist_ok=True)
        student = build_transformer()
        student.load_state_dict(self.teacher.transformer.state_dict())
        average = {name: value.detach().clone() for name, value in student.state_dict().items()}
        optimizers = _optimizers(student)
        path = self.folder / STATE
        update, spent_s = 0, 0.0
        if (state := load_state(path)) is not None:
            student.load_state_dict(state["model"])
            average = state["average"]
            for optimizer, kept in zip(optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(kept)
            update, spent_s = state["update"], state["spent_s"]
        self._learn_from_more(update // self.plan.updates + 1)
        began_s = self.clock() - spent_s
        while (spent_s := self.clock() - began_s) < self.plan.seconds:
            if update % self.plan.updates == 0:
                self._learn_from_more(update // self.plan.updates + 1)
            self._update(student, average, optimizers, update, spent_s / self.plan.seconds)
            update += 1
            if update % 20 == 0 or self.clock() - began_s >= self.plan.seconds:
                kept_state = {"model": student.state_dict(), "average": average, "update": update, "spent_s": spent_s}
                save_state(path, {**kept_state, "optimizers": [each.state_dict() for each in optimizers]})
                words = f"{len(self.lessons)} lessons, {recent(self.losses)}"
                print(f"turbo {update} updates in {spent_s:.0f} of {self.plan.seconds:.0f} s, {words}", flush=True)
        return average

    def _learn_from_more(self, count: int) -> None:
        for index in range(len(self.lessons), min(count, self.plan.lessons)):
            file = self.folder / f"lesson{index:04d}.safetensors"
            self.lessons.append(Lesson(**cached_tensors(file, partial(make_lesson, self.teacher, index))))

    def _update(
        self,
        student: SD3Transformer2DModel,
        average: dict[str, torch.Tensor],
        optimizers: list[torch.optim.Optimizer],
        update: int,
        progress: float,
    ) -> None:
        rng = random.Random(f"batch {update}")
        lesson = self.lessons[-1] if update % self.plan.updates == 0 else rng.choice(self.lessons)
        images, (height, width) = lesson.text.shape[0], lesson.latents.shape[-2:]
        rows = rng.sample(range(images), min(images, max(2, BATCH_ROWS // (height * width // 4 + 32))))
        scale_rates(optimizers, min(1.0, (update + 1) / 20, (1 - progress) / (1 - COOL_FROM)))
        loss = student_loss(student, lesson, rows, on_own=progress > OWN_FROM)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        update_average(average, student, min(0.99, (update + 1) / (update + 10)))
        self.losses.append(loss.item())


def _optimizers(student: SD3Transformer2DModel) -> list[torch.optim.Optimizer]:
    blocks = student.transformer_blocks
    matrices = [p for name, p in blocks.named_parameters() if p.ndim == 2 and "norm1" not in name]
    adam = torch.optim.AdamW(others(student, matrices), ADAM_RATE, (0.9, 0.98), weight_decay=0.0)
    return muon_and_adam(matrices, MUON_RATE, adam)


def _generator(index: int) -> torch.Generator:
    return torch.Generator().manual_seed(10_000 + index)


def trained_average(folder: Path) -> dict[str, torch.Tensor]:
    """Return the moving average of a training folder's weights, as far as it has come.  Raises CheckpointError."""
    state = load_state(folder / STATE)
    if state is None:
        raise CheckpointError(f"{folder / STATE} is missing: nothing was trained in this folder")
    average: dict[str, torch.Tensor] = state["average"]
    return average


def export_turbo(average: dict[str, torch.Tensor], folder: Path) -> int:
    """Write the student as what it differs from lego-tiny by, with a tier ``turbo`` of its four steps.

    Returns the size of the difference in bytes.  Raises CheckpointError where it is more than the package may grow by.
    """
    [teacher] = (WEIGHTS / "transformer").glob("*.safetensors")
    size = write_difference(folder, load_file(teacher), average, Origin(BASE, denoiser_digest(WEIGHTS)))
    if size > MAX_BYTES:
        raise CheckpointError(f"{folder} takes {size} bytes, at most {MAX_BYTES} are allowed")
    run = TierRun(TIER, "euler", len(SIGMAS) - 1, PIXELS, Grid("euler", SIGMAS), {"guidance": 1.0})
    write_book(TierBook((run,), weights=denoiser_digest(folder)), folder / FILE)
    return size


def add_tier(quality: Mapping[str, object], base: Path = WEIGHTS, student: Path = STUDENT) -> tuple[int, ...]:
    """Make a student a tier of its base, in the place of one it may have; return the steps that it stands for.

    These are the steps that the base's other tiers are for.  Raises ValueError for a book of other weights.
    """
    book = from_json(json.loads((base / FILE).read_text()))
    book.check(denoiser_digest(base))
    own = book.without_checkpoints().runs
    steps = tuple(sorted({run.steps for run in own if run.sampler == "euler"}))
    checkpoint = Checkpoint(f"{BUILT_IN}{student.name}", denoiser_digest(student), guidance=1.0)
    grid = Grid("euler", SIGMAS)
    turbo = (TierRun(TIER, "euler", count, PIXELS, grid, quality, checkpoint=checkpoint) for count in steps)
    runs = sorted((*own, *turbo), key=lambda run: (run.sampler, run.steps, TIERS.index(run.tier)))
    write_book(TierBook(tuple(runs), weights=book.weights), base / FILE)
    return steps
