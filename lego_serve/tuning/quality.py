"""Measures what grids do to images: how like they are to those of all steps, how near the converged ones, how right.

Every image is drawn in every way from the same noise.  The converged image is that of many steps of a second-order
sampler; the one of all steps is itself some way from it, so a row may be nearer the truth than what it replaces.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from lego_serve.core.tiers.block_rows import BlockRows
from lego_serve.core.tiers.book import TierRun
from lego_serve.core.tiers.grids import Grid, shifted_sigmas
from lego_serve.core.tiers.own_rows import OwnRows
from lego_serve.engine.lane_state import LaneRequest
from lego_serve.engine.offline import OfflinePipeline
from lego_serve.image_metrics import psnr, ssim
from lego_serve.models.ragged.pruning.router import BlockRouter
from lego_serve.tuning.trajectories import Calibration, ends

CONVERGED = Grid("dpmpp_2m", shifted_sigmas(56, 3.0, 1 / 1000))
BATCH, CONVERGES_EVERY = 4, 4
EQUAL_DB = 99.0  # counts for images that do not differ at all
Judge = Callable[[int, np.ndarray], bool]  # whether the image of a prompt, by its index, shows what that says


@dataclass(frozen=True, slots=True)
class Row:
    """One way to draw images: on a grid, or with the steps and the sampler that the calibration asks for.

    With a ``router`` the model chooses rows by that one, from this row on.  A ``student`` draws in the model's place;
    with a ``guidance`` that takes the place of the one that is asked.
    """

    name: str
    grid: Grid | None
    evaluations: int
    sampler: str = "euler"
    steps: int | None = None
    own_rows: OwnRows | None = None
    block_rows: BlockRows | None = None
    router: BlockRouter | None = None
    student: OfflinePipeline | None = None
    guidance: float | None = None

    @property
    def facts(self) -> tuple[object, ...]:
        """All that says which images it draws, but for the weights of a router or student."""
        plans = self.own_rows, self.block_rows
        return self.name, self.grid, self.evaluations, self.sampler, self.steps, *plans, self.guidance

    @classmethod
    def of(cls, run: TierRun) -> "Row":
        """Return the row of a tier."""
        return cls(run.tier, run.grid, run.grid.evaluations, own_rows=run.own_rows, block_rows=run.block_rows)

    def apply(self, lane: LaneRequest) -> LaneRequest:
        """Return a lane that runs so."""
        steps = lane.steps if self.steps is None else self.steps
        lane = replace(lane, grid=self.grid, sampler=self.sampler, steps=steps)
        lane = replace(lane, own_rows=self.own_rows, block_rows=self.block_rows)
        if self.guidance is None:
            return lane
        return replace(lane, guidance=self.guidance, negative=lane.negative if self.guidance > 1 else None)


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of a row against the same of all steps, and against the converged one where that was drawn.

    PSNR in decibels; ``seconds`` of processor time from noise to pixels, an image's share of its batch.
    """

    row: str
    image: int
    psnr: float
    ssim: float
    true_psnr: float | None
    is_right: bool | None
    seconds: float


def measure(
    pipeline: OfflinePipeline,
    images: Calibration,
    rows: Sequence[Row],
    *,
    steps: int,
    sampler: str = "euler",
    first: int = 0,
    judge: Judge | None = None,
    converges: bool = True,
) -> Iterator[Sample]:
    """Draw images in every way and yield what each came to, row by row; the first row is that of all steps.

    ``first`` is the number of the first image, by which the judge knows it.  Raises LegoError.
    """
    lanes = images.lanes(pipeline, steps, sampler)
    true = _draw(pipeline, lanes, Row("converged", CONVERGED, CONVERGED.evaluations))[0] if converges else None
    reference: list[np.ndarray] = []
    for row in rows:
        drawn, seconds = _draw(pipeline, lanes, row)
        reference = reference or drawn
        for index, pixels in enumerate(drawn):
            yield Sample(
                row=row.name,
                image=first + index,
                psnr=_psnr(pixels, reference[index]),
                ssim=ssim(pixels, reference[index], _everywhere(pixels)),
                true_psnr=None if true is None else _psnr(pixels, true[index]),
                is_right=None if judge is None else judge(first + index, pixels),
                seconds=seconds / len(drawn),
            )


class SampleStore(Protocol):
    """Samples that grow batch by batch."""

    @property
    def images(self) -> frozenset[int]:
        """The numbers of the images that were measured."""
        ...

    def add(self, batch: Sequence[Sample]) -> None:
        """Keep the samples of a batch."""
        ...


def measure_all(
    pipeline: OfflinePipeline,
    images: Calibration,
    rows: Sequence[Row],
    kept: SampleStore,
    *,
    steps: int,
    sampler: str = "euler",
    judge: Judge | None = None,
) -> None:
    """Measure all images, a few at a time, as far as they are not kept yet.  Raises LegoError.

    Converged images take two of all steps, so one batch in CONVERGES_EVERY is held against them.
    """
    for first in range(0, len(images.prompts), BATCH):
        if first in kept.images:
            continue
        part = images.part(first, BATCH)
        converges = first // BATCH % CONVERGES_EVERY == 0
        found = measure(
            pipeline, part, rows, steps=steps, sampler=sampler, first=first, judge=judge, converges=converges
        )
        kept.add(list(found))


def table(samples: Sequence[Sample]) -> dict[str, dict[str, float]]:
    """Return by row the means and the worst of its images, how many are right, and the seconds of one."""
    rows: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys(sample.row for sample in samples):
        own = [sample for sample in samples if sample.row == name]
        true = [sample.true_psnr for sample in own if sample.true_psnr is not None]
        judged = [sample.is_right for sample in own if sample.is_right is not None]
        rows[name] = {
            "images": len(own),
            "psnr_mean": round(_mean([sample.psnr for sample in own]), 2),
            "psnr_least": round(min(sample.psnr for sample in own), 2),
            "ssim_mean": round(_mean([sample.ssim for sample in own]), 5),
            "ssim_least": round(min(sample.ssim for sample in own), 5),
            "seconds": round(_mean([sample.seconds for sample in own]), 4),
        }
        if true:
            worst = {"true_psnr_mean": round(_mean(true), 2), "true_psnr_least": round(min(true), 2)}
            rows[name] |= worst | {"true_images": len(true)}
        if judged:
            rows[name] |= {"right": sum(judged), "judged": len(judged)}
    return rows


def quality_of(found: Mapping[str, Mapping[str, float]], name: str) -> dict[str, object]:
    """Return what a book of tiers says of a row, without what depends on the machine."""
    return {key: value for key, value in found[name].items() if key != "seconds"}


def draw_row(pipeline: OfflinePipeline, images: Calibration, row: Row, *, steps: int = 28) -> list[np.ndarray]:
    """Return the pixels of images drawn in one way.  Raises LegoError."""
    return _draw(pipeline, images.lanes(pipeline, steps, "euler"), row)[0]


def _draw(pipeline: OfflinePipeline, lanes: Sequence[LaneRequest], row: Row) -> tuple[list[np.ndarray], float]:
    """Return the pixels of each lane and the processor seconds that they took together."""
    pipeline = row.student or pipeline
    if row.router is not None:
        pipeline.engine.use_router(row.router)
    began = time.process_time()
    latents = ends(pipeline, [row.apply(lane) for lane in lanes])
    pixels = [pipeline.vae.decode(each[None])[0].numpy() for each in latents]
    return pixels, time.process_time() - began


def _psnr(first: np.ndarray, second: np.ndarray) -> float:
    found = psnr(first, second, _everywhere(first))
    return EQUAL_DB if math.isinf(found) else found


def _everywhere(pixels: np.ndarray) -> np.ndarray:
    return np.ones(pixels.shape[:2], dtype=bool)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
