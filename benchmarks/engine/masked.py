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
CLOSE = 1.3  # how far above proportional to its rows, plus the constant, a step may be
COLUMNS = (
    "model", "image", "lanes", "computed", "text", "rows a step", "coding", "ms a step", "ms a lane",
    "over all rows", "over proportional", "over text computed", "over diffusers, one by one",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class MaskedRow:
    """One share of one image; ``reads_text`` where the unconditional branch's text is read too.

    Ratios are over our step that computes all rows, over a straight line through that and the step's constant, over
    the same step with all text computed, and over diffusers' transformer lane after lane.
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
        """The row of the table."""
        lane = f"{1000 * self.step_s.median / self.lanes:.1f}"
        return [
            self.model, f"{self.pixels} x {self.pixels}", str(self.lanes), f"{self.share:.2f}",
            "read" if self.reads_text else "computed", str(self.rows), self.coding, self.step_s.told(1000), lane,
            self.over_full.told(digits=2), f"{self.over_proportional:.2f}", self.over_computed.told(digits=2),
            self.over_single.told(digits=2),
        ]  # fmt: skip


def measure_masked(
    subject: Subject, sides: Sequence[int], lanes: Sequence[int], codings: Sequence[str], patience: Patience
) -> list[MaskedRow]:
    """Every size, number of lanes, coding and share."""
    return [
        row
        for side in sides
        for count in lanes
        for coding in codings
        for row in _measure(subject, side, count, coding, patience)
    ]


def masked_report(rows: Sequence[MaskedRow]) -> Report:
    """The table, and where a step takes more than its rows say."""
    far = [
        f"{r.model} at {r.pixels}, {r.lanes} lanes, {r.share}, text {'read' if r.reads_text else 'computed'}"
        for r in rows
        if r.over_proportional > CLOSE
    ]
    remark = f"Within {CLOSE} of proportional everywhere."
    if far:
        remark = f"Above {CLOSE} of proportional: {'; '.join(far)}."
    return Report("ms a masked step", COLUMNS, [row.cells() for row in rows], rows, [remark])


def masked_lane(
    subject: Subject, seed: int, side: int, share: float, coding: str, *, reads_text: bool = True
) -> LaneInput:
    """A lane that computes a square of about that share of its image, from activations of its own.

    With ``reads_text``, as served, the unconditional branch reads its text's rows too.
    """
    lane = subject.lane(seed, side, side)
    whole = max(1, round(side * share**0.5))
    at = torch.arange(side * side).view(side, side)[:whole, :whole].flatten()
    kept = [Activations(ACTIVATION_CODECS[coding], keeps_text=reads_text) for _ in "cn"]
    primers = [replace(lane, negative=None, capture=kept[0])]
    if lane.negative is not None:
        primers.append(replace(lane, cond=lane.negative, negative=None, capture=kept[1]))
    subject.backbone.velocity(primers)
    if lane.negative is None:
        return replace(lane, reuse=Reuse(at.to(subject.device), kept[0]))
    return replace(lane, reuse=Reuse(at.to(subject.device), kept[0], kept[1], reads_text=reads_text))


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
    least = batch(0.0, texts[-1])
    runs["least"] = lambda: velocity(least)
    for at, lanes in batches.items():
        runs[str(at)] = lambda lanes=lanes: velocity(lanes)  # type: ignore[misc]
    times = take_turns(runs, subject.device, patience)
    line = _line(times, _rows(least), _rows(full))
    made = []
    for (share, reads_text), lanes in batches.items():
        step_s, rows = times[str((share, reads_text))], _rows(lanes)
        taken = Quartiles.of(step_s)
        made.append(
            MaskedRow(
                subject.name, side * subject.backbone.shape.pixels_per_token, count, share, reads_text, rows, coding,
                taken, ratios(step_s, times["full"]), taken.median / line(rows),
                ratios(step_s, times[str((share, False))]), ratios(step_s, times["single"]),
            )
        )  # fmt: skip
    return made


def _rows(lanes: Sequence[LaneInput]) -> int:
    total = 0
    for lane in lanes:
        of = lane.latents.shape[-2] * lane.latents.shape[-1] // 4
        total += lane.rows(of) + int(lane.cond.tokens.shape[0])
        if lane.negative is not None:
            is_read = lane.reuse is not None and lane.reuse.reads_text
            total += lane.rows(of) + (0 if is_read else int(lane.negative.tokens.shape[0]))
    return total


def _line(times: dict[str, list[float]], least: int, full: int) -> Callable[[int], float]:
    """Seconds proportional to rows, plus the constant, through the step of one row an image and that of all."""
    low, high = Quartiles.of(times["least"]).median, Quartiles.of(times["full"]).median
    slope = (high - low) / (full - least)
    return lambda rows: low + slope * (rows - least)
