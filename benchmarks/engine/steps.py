"""Milliseconds a step by image size and number of lanes, against lanes one after the other and diffusers."""

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
    "model",
    "image",
    "tokens",
    "lanes",
    "rows a step",
    "ms a step",
    "a lane over alone",
    "over diffusers, one by one",
    "over diffusers, batch",
    "over compiled, batch",
)


@dataclass(frozen=True, slots=True)
class StepRow:
    """One size and number of lanes.  Ratios are our step's time over the other side's, both for all lanes.

    ``over_alone``: over our steps of one lane each; ``over_single``: over diffusers, lane after lane;
    ``over_batch`` and ``over_compiled``: over diffusers in one batch, eager and compiled.
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
        """Return the row of the table, in the order of COLUMNS."""
        alone = self.over_alone.text(digits=2) if self.is_gain else f"{self.over_alone.text(digits=2)} no gain"
        return [
            self.model,
            f"{self.pixels} x {self.pixels}",
            str(self.tokens),
            str(self.lanes),
            str(self.rows),
            self.step_s.text(1000),
            "-" if self.lanes == 1 else alone,
            self.over_single.text(digits=2),
            self.over_batch.text(digits=2),
            "-" if self.over_compiled is None else self.over_compiled.text(digits=2),
        ]


@dataclass(frozen=True, slots=True)
class StepPlan:
    """What to measure of each model: sides of images in tokens (none: the model's own), numbers of lanes.

    ``is_compiled``: diffusers is measured compiled too.
    """

    sides: Sequence[int]
    lanes: Sequence[int]
    is_compiled: bool
    patience: Patience


def measure_steps(subject: Subject, plan: StepPlan) -> list[StepRow]:
    """Measure every size with every number of lanes."""
    compiled_twin = compiled(subject.transformer) if plan.is_compiled else None
    sides = plan.sides or subject.architecture.sides
    return [_measure(subject, side, count, compiled_twin, plan.patience) for side in sides for count in plan.lanes]


def step_report(rows: Sequence[StepRow]) -> Report:
    """Return the table, and where batching does not pay."""
    batched = [row for row in rows if row.lanes > 1]
    no_gain = [f"{r.model} at {r.pixels} x {r.pixels} with {r.lanes} lanes" for r in batched if not r.is_gain]
    if no_gain:
        remark = f"Batching does not pay (a lane takes {NO_GAIN} or more of its time alone): {'; '.join(no_gain)}."
    elif batched:
        remark = f"Batching pays everywhere measured: a lane takes less than {NO_GAIN} of its time alone."
    else:
        remark = "No batch was measured."
    return Report("ms a step", COLUMNS, [row.cells() for row in rows], rows, [remark])


def _measure(subject: Subject, side: int, count: int, compiled_twin: Any, patience: Patience) -> StepRow:
    seeds = range(1, count + 1)
    lanes = [subject.lane(seed, side, side) for seed in seeds]
    velocity = subject.backbone.velocity
    singles = [uniform_call(subject, subject.transformer, [seed], side, side) for seed in seeds]
    runs: dict[str, Callable[[], Any]] = {
        "ours": lambda: velocity(lanes),
        "diffusers singly": lambda: [single() for single in singles],
    }
    if count > 1:
        runs["ours singly"] = lambda: [velocity([lane]) for lane in lanes]
        runs["diffusers"] = uniform_call(subject, subject.transformer, seeds, side, side)
    if compiled_twin is not None:
        runs["compiled"] = uniform_call(subject, compiled_twin, seeds, side, side)
    times = take_turns(runs, subject.device, patience)
    ours, single = times["ours"], times["diffusers singly"]
    return StepRow(
        model=subject.name,
        pixels=side * subject.backbone.shape.pixels_per_token,
        tokens=side * side,
        lanes=count,
        rows=work_of(subject.backbone, lanes).rows,
        step_s=Quartiles.of(ours),
        over_alone=ratios(ours, times.get("ours singly", ours)),
        over_single=ratios(ours, single),
        over_batch=ratios(ours, times.get("diffusers", single)),
        over_compiled=None if compiled_twin is None else ratios(ours, times["compiled"]),
    )
