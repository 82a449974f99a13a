"""What a GPU makes of a step, within ten minutes: ``python -m benchmarks.engine --gpu``.

Steps of SD3.5 medium and FLUX.1-dev with random weights at 512 and 1024 pixels, whole and masked, in batches of one to
eight: ours beside diffusers' transformer, eager and compiled, and beside the least that the device could take.  What is
most worth knowing comes first; when the time is over the rest is left out, and the table says so.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.engine.diffusers_side import compiled, uniform_call
from benchmarks.engine.masked import masked_lane
from benchmarks.engine.models import Subject
from benchmarks.engine.report import Report
from benchmarks.engine.timing import Patience, Quartiles, take_turns
from lego_serve.core.costs import StepWork
from lego_serve.core.editing.reuse import branch_work
from lego_serve.models.ragged.lane_input import LaneInput
from lego_serve.models.ragged.layers import linears

SIDES = (32, 64)  # in tokens: 512 and 1024 pixels
LANES, SHARES = (1, 8, 4, 2), (1.0, 0.35, 0.11)  # in the order in which they are measured
BUDGET_S = 540.0
# Dense bf16 operations and bytes of memory a second, by a word of the device's name (NVIDIA's data sheets).
PEAKS = {"H200": (989e12, 4.8e12), "H100": (989e12, 3.35e12), "A100": (312e12, 2.0e12)}
COLUMNS = ("model", "image", "computed", "lanes", "ours ms", "eager ms", "compiled ms", "floor ms", "ours over floor")


@dataclass(frozen=True, slots=True)
class Peaks:
    """What a device does at the most: operations and bytes a second."""

    operations: float
    bytes: float

    @classmethod
    def of(cls, name: str) -> "Peaks | None":
        """Return those of a device by its name; None for one that is not known."""
        return next((cls(*numbers) for word, numbers in PEAKS.items() if word in name), None)

    def floor_s(self, weights: int, bytes_each: int, rows: int, pairs: int, width: int) -> float:
        """Return the least seconds of a step: its products at the peak, or its weights read once.

        ``weights`` numbers multiply each of ``rows``; ``pairs`` of all attentions, of ``width`` numbers each.
        """
        operations = 2 * weights * rows + 4 * pairs * width
        return max(operations / self.operations, weights * bytes_each / self.bytes)


@dataclass(frozen=True, slots=True)
class GpuRow:
    """A step of so many lanes that compute a share of their image; sides that were not measured are None."""

    model: str
    pixels: int
    share: float
    lanes: int
    ours_s: Quartiles
    eager_s: Quartiles | None
    compiled_s: Quartiles | None
    floor_s: float | None

    def cells(self) -> list[str]:
        """Return the row of the table, in the order of COLUMNS."""
        others = ["-" if each is None else each.text(1000) for each in (self.eager_s, self.compiled_s)]
        floor = ["-", "-"]
        if self.floor_s is not None:
            floor = [f"{1000 * self.floor_s:.2f}", f"{self.ours_s.median / self.floor_s:.2f}"]
        size = f"{self.pixels} x {self.pixels}"
        return [self.model, size, f"{self.share:.2f}", str(self.lanes), self.ours_s.text(1000), *others, *floor]


def measure_gpu(
    subject: Subject,
    sides: Sequence[int],
    lanes: Sequence[int],
    patience: Patience,
    *,
    ends_s: float,
    peaks: Peaks | None = None,
    is_compiled: bool = True,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[GpuRow]:
    """Yield a row for each share, side and number of lanes, as long as the clock is before ``ends_s``."""
    twin = compiled(subject.transformer) if is_compiled else None
    for count in lanes:
        for side in sides:
            for share in SHARES:
                if clock() >= ends_s:
                    return
                yield _measure(subject, side, count, share, patience, twin, peaks)


def _measure(
    subject: Subject, side: int, count: int, share: float, patience: Patience, twin: Any, peaks: Peaks | None
) -> GpuRow:
    seeds = range(1, count + 1)
    if share == 1.0:
        batch = [subject.lane(seed, side, side) for seed in seeds]
    else:
        batch = [masked_lane(subject, seed, side, share, "bfloat16") for seed in seeds]
    runs: dict[str, Callable[[], Any]] = {"ours": lambda: subject.backbone.velocity(batch)}
    if share == 1.0:  # the others compute whole images only
        runs["eager"] = uniform_call(subject, subject.transformer, seeds, side, side)
        if twin is not None and count == 1:  # each size takes minutes to compile
            runs["compiled"] = uniform_call(subject, twin, seeds, side, side)
    times = {name: Quartiles.of(each) for name, each in take_turns(runs, subject.device, patience).items()}
    return GpuRow(
        model=subject.name,
        pixels=side * subject.backbone.shape.pixels_per_token,
        share=share,
        lanes=count,
        ours_s=times["ours"],
        eager_s=times.get("eager"),
        compiled_s=times.get("compiled"),
        floor_s=None if peaks is None else _floor_s(subject, batch, peaks),
    )


def _floor_s(subject: Subject, batch: Sequence[LaneInput], peaks: Peaks) -> float:
    """Return the least seconds of a batch.

    Half of the blocks' weights are image's and half text's, as in SD3 and in FLUX's double blocks; FLUX's single ones
    multiply all rows, so that its floor is somewhat low.
    """
    backbone = subject.backbone
    weights = sum(layer.weight.numel() for layer in linears(vars(backbone)) if layer.is_of_blocks)
    work = sum((_work(lane) for lane in batch), StepWork(0, 0))
    width = backbone.attentions[0].heads * backbone.attentions[0].width
    size = torch.empty((), dtype=subject.dtype).element_size()
    return peaks.floor_s(weights // 2, size, work.rows, work.pairs * len(backbone.attentions), width)


def _work(lane: LaneInput) -> StepWork:
    tokens = lane.latents.shape[-2] * lane.latents.shape[-1] // 4
    active, reads = lane.active_rows(tokens), lane.reuse is not None and lane.reuse.reads_text
    work = branch_work(tokens, active, int(lane.cond.tokens.shape[0]))
    if lane.negative is None:
        return work
    return work + branch_work(tokens, active, int(lane.negative.tokens.shape[0]), reads_text=reads)


def measure_all(subjects: Iterable[tuple[Subject, dict[str, Any]]]) -> tuple[Report, dict[str, Any]]:
    """Return the table of models and what was checked of each, by name; the first takes at most half of the time."""
    began_s = time.monotonic()
    rows: list[GpuRow] = []
    models: dict[str, Any] = {}
    for subject, checks in subjects:
        ends_s = began_s + (BUDGET_S if models else BUDGET_S / 2)
        models[subject.name] = checks
        peaks = Peaks.of(torch.cuda.get_device_name(subject.device))
        rows += measure_gpu(subject, SIDES, LANES, Patience(least_s=0.5), ends_s=ends_s, peaks=peaks)
    wanted = len(models) * len(SIDES) * len(LANES) * len(SHARES)
    return gpu_report(rows, is_complete=len(rows) == wanted), models


def gpu_report(rows: Sequence[GpuRow], *, is_complete: bool) -> Report:
    """Return the table."""
    remarks = ["The floor: all products at the device's peak in bf16, or each weight read once, whichever is longer."]
    if not is_complete:
        remarks.append("The time was over before all was measured.")
    return Report("Steps on a GPU", COLUMNS, [row.cells() for row in rows], rows, remarks)
