"""Lessons that a model's parts are tuned on: the model's own trajectories with all steps, kept in a folder."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from lego_serve.engine.offline import OfflinePipeline
from lego_serve.tuning.pruned_pass import Examples
from lego_serve.tuning.trajectories import Calibration, trajectories

LESSON_IMAGES = 8


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


@dataclass(slots=True)
class Lessons:
    """The lessons of a model on a grid of steps: made where they do not lie in the folder, of prompts in turn."""

    folder: Path
    pipeline: OfflinePipeline
    images: Calibration
    steps: int
    sampler: str
    _made: list[Lesson] = field(default_factory=list)

    def first(self, count: int) -> list[Lesson]:
        """Return the first lessons, so many.  Raises LegoError."""
        for index in range(len(self._made), count):
            file = self.folder / f"lesson{index:03d}.safetensors"
            if not file.exists():
                self.folder.mkdir(parents=True, exist_ok=True)
                partial = file.with_suffix(".partial")
                save_file(self._lesson(index), partial)
                partial.replace(file)
            self._made.append(Lesson(**load_file(file), guidance=self.images.guidance))
        return self._made[:count]

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
