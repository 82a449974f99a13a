"""Milliseconds a step over image sizes and numbers of lanes, against one lane after the other and diffusers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.engine.diffusers_side import compiled, uniform_call
from benchmarks.engine.models import Subject
from benchmarks.engine.report import Report
from benchmarks.engine.timing import Patience, Quartiles, ratios, take_turns
from lego_serve.engine.calibration import work_of

NO_GAIN = 0.95  # a lane in a batch that takes at least so much of the time it takes alone gains nothing worth naming
COLUMNS = (
    "model", "image", "tokens", "lanes", "rows a step", "ms a step", "a lane over alone",
    "over diffusers, one by one", "over diffusers, batch", "over compiled, batch",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class StepRow:
    """One size and number of lanes.  Ratios are our step's time over the other side's, both for all lanes.

    ``over_alone``: over the same lanes one after the other; ``over_single``: over diffusers one after the other.
    """

    model: str
    pixels: int
    tokens: int
    lanes: int
    rows: int
    step_s: Quartiles
    over_alone: Quartiles
    over_single: Quartiles
    over_batch: Quartiles
    over_compiled: Quartiles | None

    @property
    def is_gain(self) -> bool:
        """Whether a lane takes clearly less time in the batch than alone."""
        return self.over_alone.median < NO_GAIN

    def cells(self) -> list[str]:
        """The row of the table."""
        alone = "-" if self.lanes == 1 else f"{self.over_alone.told(digits=2)}{'' if self.is_gain else ' no gain'}"
        square = f"{self.pixels} x {self.pixels}"
        faster = "-" if self.over_compiled is None else self.over_compiled.told(digits=2)
        single, batch = self.over_single.told(digits=2), self.over_batch.told(digits=2)
        numbers = [str(number) for number in (self.tokens, self.lanes, self.rows)]
        return [self.model, square, *numbers, self.step_s.told(1000), alone, single, batch, faster]


@dataclass(frozen=True, slots=True)
class StepPlan:
    """What to run of each model: sides of images in tokens (none: its own), numbers of lanes, compiled or not."""

    sides: Sequence[int]
    lanes: Sequence[int]
    is_compiled: bool
    patience: Patience


def measure_steps(subject: Subject, plan: StepPlan) -> list[StepRow]:
    """Every size with every number of lanes."""
    twin = compiled(subject.transformer) if plan.is_compiled else None
    sides = plan.sides or subject.architecture.sides
    return [_measure(subject, side, count, twin, plan.patience) for side in sides for count in plan.lanes]


def step_report(rows: Sequence[StepRow]) -> Report:
    """The table, and plainly where batching does not pay."""
    batched = [row for row in rows if row.lanes > 1]
    flat = [f"{r.model} at {r.pixels} x {r.pixels} with {r.lanes} lanes" for r in batched if not r.is_gain]
    if flat:
        remark = f"Batching does not pay (a lane takes {NO_GAIN} or more of its time alone): {'; '.join(flat)}."
    elif batched:
        remark = f"Batching pays everywhere measured: a lane takes less than {NO_GAIN} of its time alone."
    else:
        remark = "No batch was measured."
    return Report("ms a step", COLUMNS, [row.cells() for row in rows], rows, [remark])


def _measure(subject: Subject, side: int, count: int, twin: Any, patience: Patience) -> StepRow:
    seeds = range(1, count + 1)
    lanes = [subject.lane(seed, side, side) for seed in seeds]
    velocity, eager = subject.backbone.velocity, subject.transformer
    singles = [uniform_call(subject, eager, [seed], side, side) for seed in seeds]
    runs: dict[str, Callable[[], Any]] = {
        "ours": lambda: velocity(lanes),
        "diffusers singly": lambda: [single() for single in singles],
    }
    if count > 1:
        runs["ours singly"] = lambda: [velocity([lane]) for lane in lanes]
        runs["diffusers"] = uniform_call(subject, eager, seeds, side, side)
    if twin is not None:
        runs["compiled"] = uniform_call(subject, twin, seeds, side, side)
    times = take_turns(runs, subject.device, patience)
    ours, single = times["ours"], times["diffusers singly"]
    faster = None if twin is None else ratios(ours, times["compiled"])
    return StepRow(
        subject.name,
        side * subject.backbone.shape.pixels_per_token,
        side * side,
        count,
        work_of(subject.backbone, lanes).rows,
        Quartiles.of(ours),
        ratios(ours, times.get("ours singly", ours)),
        ratios(ours, single),
        ratios(ours, times.get("diffusers", single)),
        faster,
    )
