"""What a GPU makes of a step, within ten minutes: ``python -m benchmarks.engine --gpu``.

Steps of SD3.5 medium and FLUX.1-dev with random weights at 512 and 1024 pixels, whole and masked, in batches of one to
eight: ours beside diffusers' transformer, eager and compiled, and beside the least that the device could take.  What is
most worth knowing comes first; when the time is over the rest is left out, and the table says so.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.engine.checks import checked
from benchmarks.engine.diffusers_side import compiled, uniform_call
from benchmarks.engine.masked import masked_lane
from benchmarks.engine.models import DEFAULTS, Subject, build
from benchmarks.engine.report import Report
from benchmarks.engine.timing import Patience, Quartiles, take_turns
from lego_serve.core.costs import StepWork
from lego_serve.core.editing.reuse import branch_work
from lego_serve.models.ragged.lane_input import LaneInput
from lego_serve.models.ragged.layers import linears

SIDES = (32, 64)  # in tokens: 512 and 1024 pixels
LANES, SHARES = (1, 8, 4, 2), (1.0, 0.35, 0.11)  # in the order in which they are measured
BUDGET_S, COMPILES_S = 540.0, 100.0  # of all, and of one more size
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

    def text(self) -> str:
        """Return it as a line of markdown."""
        return f"| {' | '.join(self.cells())} |"

    def cells(self) -> list[str]:
        """Return the row of the table, in the order of COLUMNS."""
        others = ["-" if each is None else each.text(1000) for each in (self.eager_s, self.compiled_s)]
        floor = ["-", "-"]
        if self.floor_s is not None:
            floor = [f"{1000 * self.floor_s:.2f}", f"{self.ours_s.median / self.floor_s:.2f}"]
        size = f"{self.pixels} x {self.pixels}"
        return [self.model, size, f"{self.share:.2f}", str(self.lanes), self.ours_s.text(1000), *others, *floor]


@dataclass(frozen=True, slots=True)
class Skipped:
    """A step that was not measured, and why."""

    case: str
    reason: str

    def text(self) -> str:
        """Return it as a line."""
        return f"{self.case}: not measured: {self.reason}"


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
) -> Iterator[GpuRow | Skipped]:
    """Yield a row for each share, side and number of lanes, as long as the clock is before ``ends_s``.

    A case that fails is yielded as Skipped.  Each size takes a minute or more to compile, so one lane is measured
    beside the compiled twin at first; whole images of other numbers of lanes come once more with it, while there is
    time for that.
    """
    twin = compiled(subject.transformer) if is_compiled else None
    cases = [
        (count, side, share, twin if count == 1 else None) for count in lanes for side in sides for share in SHARES
    ]
    if twin is not None:
        cases += [(count, side, 1.0, twin) for count in lanes if count > 1 for side in sides]
    for number, (count, side, share, other) in enumerate(cases):
        needed_s = 0.0 if other is None or not number else COMPILES_S
        if clock() + needed_s >= ends_s:
            yield Skipped(f"{subject.name} and {len(cases) - number} cases", "the time is over")
            return
        try:
            yield _measure(subject, side, count, share, patience, other, peaks)
        except RuntimeError as error:  # of torch: out of memory, no kernel for the device, a failed compilation
            reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            yield Skipped(f"{subject.name}, {side} tokens a side, {share:g} of them, {count} lanes", reason)
            if subject.device.type == "cuda":
                torch.cuda.empty_cache()


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
        if twin is not None:
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


def measure_models(
    device: torch.device, show: Callable[[str, GpuRow | Skipped | dict[str, Any]], None], *, began_s: float
) -> None:
    """Show what is checked of each model, by name, then its rows; the first takes at most half of the time.

    Raises Disagreement where a kernel or a velocity is not what its reference says.
    """
    torch.set_num_threads(1)
    peaks = Peaks.of(torch.cuda.get_device_name(device))
    names = DEFAULTS["cuda"]
    for number, name in enumerate(names, start=1):
        subject = build(name, device)
        show(name, checked(subject, batch_invariant=False))
        ends_s = began_s + BUDGET_S * number / len(names)
        for found in measure_gpu(subject, SIDES, LANES, Patience(least_s=0.5), ends_s=ends_s, peaks=peaks):
            show(name, found)
        del subject  # so that the next model finds its memory free


def gpu_report(found: Sequence[GpuRow | Skipped]) -> Report:
    """Return the table of what was found; of two rows of a case the later one."""
    rows = {(row.model, row.pixels, row.share, row.lanes): row for row in found if isinstance(row, GpuRow)}
    remarks = ["The floor: all products at the device's peak in bf16, or each weight read once, whichever is longer."]
    remarks += [each.text() for each in found if isinstance(each, Skipped)]
    return Report("Steps on a GPU", COLUMNS, [row.cells() for row in rows.values()], list(rows.values()), remarks)
