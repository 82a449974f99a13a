"""Milliseconds a step over the share of an image that is computed, the rest read from kept activations."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from benchmarks.engine.diffusers_side import uniform_call
from benchmarks.engine.models import Subject
from benchmarks.engine.report import Report
from benchmarks.engine.timing import Patience, Quartiles, ratios, take_turns
from lego_serve.models.ragged.activations import ACTIVATION_CODECS, Activations, Reuse
from lego_serve.models.ragged.lane_input import LaneInput

SHARES = (0.05, 0.11, 0.2, 0.35, 0.5)
CLOSE = 1.3  # a step may take so many times what its rows and the constant of a step predict
COLUMNS = (
    "model",
    "image",
    "lanes",
    "computed",
    "text",
    "rows a step",
    "coding",
    "ms a step",
    "ms a lane",
    "over all rows",
    "over proportional",
    "over text computed",
    "over diffusers, one by one",
)


@dataclass(frozen=True, slots=True)
class MaskedRow:
    """One share of one image; ``reads_text``: the unconditional branch's text is read too.

    ``over_full``: over our step that computes all rows.  ``over_proportional``: over a straight line through that and
    the step of a single row.  ``over_computed``: over this step with all text computed.  ``over_single``: over
    diffusers' transformer, lane after lane.
    """

    model: str
    pixels: int
    lanes: int
    share: float
    reads_text: bool
    rows: int
    coding: str
    step_s: Quartiles
    over_full: Quartiles
    over_proportional: float
    over_computed: Quartiles
    over_single: Quartiles

    def cells(self) -> list[str]:
        """Return the row of the table, in the order of COLUMNS."""
        return [
            self.model,
            f"{self.pixels} x {self.pixels}",
            str(self.lanes),
            f"{self.share:.2f}",
            "read" if self.reads_text else "computed",
            str(self.rows),
            self.coding,
            self.step_s.text(1000),
            f"{1000 * self.step_s.median / self.lanes:.1f}",
            self.over_full.text(digits=2),
            f"{self.over_proportional:.2f}",
            self.over_computed.text(digits=2),
            self.over_single.text(digits=2),
        ]


def measure_masked(
    subject: Subject, sides: Sequence[int], lanes: Sequence[int], codings: Sequence[str], patience: Patience
) -> list[MaskedRow]:
    """Measure every size, number of lanes, coding and share."""
    return [
        row
        for side in sides
        for count in lanes
        for coding in codings
        for row in _measure(subject, side, count, coding, patience)
    ]


def masked_report(rows: Sequence[MaskedRow]) -> Report:
    """Return the table, and where a step takes much more than its rows predict."""
    slow = [
        f"{r.model} at {r.pixels}, {r.lanes} lanes, {r.share}, text {'read' if r.reads_text else 'computed'}"
        for r in rows
        if r.over_proportional > CLOSE
    ]
    remark = f"Within {CLOSE} of proportional everywhere."
    if slow:
        remark = f"Above {CLOSE} of proportional: {'; '.join(slow)}."
    return Report("ms a masked step", COLUMNS, [row.cells() for row in rows], rows, [remark])


def masked_lane(
    subject: Subject, seed: int, side: int, share: float, coding: str, *, reads_text: bool = True
) -> LaneInput:
    """Return a lane that computes a square of about that share of its image and reads the rest, primed for it alone.

    With ``reads_text``, as served, the unconditional branch reads its text rows too.
    """
    lane = subject.lane(seed, side, side)
    square = max(1, round(side * share**0.5))
    active = torch.arange(side * side).view(side, side)[:square, :square].flatten().to(subject.device)
    cond = Activations(ACTIVATION_CODECS[coding], keeps_text=reads_text)
    priming = [replace(lane, negative=None, capture=cond)]
    if lane.negative is None:
        subject.backbone.velocity(priming)
        return replace(lane, reuse=Reuse(active, cond))
    negative = Activations(ACTIVATION_CODECS[coding], keeps_text=reads_text)
    priming.append(replace(lane, cond=lane.negative, negative=None, capture=negative))
    subject.backbone.velocity(priming)
    return replace(lane, reuse=Reuse(active, cond, negative, reads_text=reads_text))


def _measure(subject: Subject, side: int, count: int, coding: str, patience: Patience) -> list[MaskedRow]:
    seeds = range(1, count + 1)
    velocity = subject.backbone.velocity
    full = [subject.lane(seed, side, side) for seed in seeds]
    singles = [uniform_call(subject, subject.transformer, [seed], side, side) for seed in seeds]
    runs: dict[str, Callable[[], Any]] = {
        "full": lambda: velocity(full),
        "single": lambda: [single() for single in singles],
    }
    texts = (False, True) if full[0].negative is not None else (False,)

    def batch(share: float, reads_text: bool) -> list[LaneInput]:
        return [masked_lane(subject, seed, side, share, coding, reads_text=reads_text) for seed in seeds]

    batches = {(share, reads_text): batch(share, reads_text) for reads_text in texts for share in SHARES}
    smallest = batch(0.0, texts[-1])
    runs["smallest"] = lambda: velocity(smallest)
    for case, lanes in batches.items():
        runs[str(case)] = lambda lanes=lanes: velocity(lanes)  # type: ignore[misc]
    times = take_turns(runs, subject.device, patience)
    proportional_s = _line(times, _rows(smallest), _rows(full))
    results = []
    for (share, reads_text), lanes in batches.items():
        step_s, rows = times[str((share, reads_text))], _rows(lanes)
        quartiles = Quartiles.of(step_s)
        results.append(
            MaskedRow(
                model=subject.name,
                pixels=side * subject.backbone.shape.pixels_per_token,
                lanes=count,
                share=share,
                reads_text=reads_text,
                rows=rows,
                coding=coding,
                step_s=quartiles,
                over_full=ratios(step_s, times["full"]),
                over_proportional=quartiles.median / proportional_s(rows),
                over_computed=ratios(step_s, times[str((share, False))]),
                over_single=ratios(step_s, times["single"]),
            )
        )
    return results


def _rows(lanes: Sequence[LaneInput]) -> int:
    total = 0
    for lane in lanes:
        image_rows = lane.latents.shape[-2] * lane.latents.shape[-1] // 4
        total += lane.active_rows(image_rows) + int(lane.cond.tokens.shape[0])
        if lane.negative is not None:
            is_read = lane.reuse is not None and lane.reuse.reads_text
            total += lane.active_rows(image_rows) + (0 if is_read else int(lane.negative.tokens.shape[0]))
    return total


def _line(times: dict[str, list[float]], smallest_rows: int, full_rows: int) -> Callable[[int], float]:
    """Return the seconds of a step over its rows, on a line through the step of one row an image and that of all."""
    smallest_s, full_s = Quartiles.of(times["smallest"]).median, Quartiles.of(times["full"]).median
    slope = (full_s - smallest_s) / (full_rows - smallest_rows)
    return lambda rows: smallest_s + slope * (rows - smallest_rows)
