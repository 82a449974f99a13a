"""Steps whose blocks multiply in 8 bits, next to steps in fp32, on a CPU, at a width where it pays and lego-tiny's."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch

from benchmarks.engine.models import Subject, build
from benchmarks.engine.report import Report
from benchmarks.engine.timing import Patience, Quartiles, ratios, take_turns
from lego_serve.engine.offline import OfflinePipeline
from lego_serve.image_metrics import psnr
from lego_serve.models.ragged.layers import Linear, linears
from lego_serve.models.ragged.linear_kinds.int8_rows import Int8Rows
from lego_serve.models.registry import ModelSpec
from lego_serve.tuning.quality import Row, draw_row
from lego_serve.tuning.trajectories import Calibration
from lego_serve.zoo.judge.prompts import held_out_prompts

NAMES, SIDES = ("wide", "tiny"), (8, 16)
COLUMNS = ("model", "side", "lanes", "ms, fp32", "ms, int8", "fp32 over int8")
STEPS, SIDE = 28, 256


@dataclass(frozen=True, slots=True)
class Int8Row:
    """A step of so many lanes, of images of ``side`` tokens a side: seconds of both, and their ratio."""

    model: str
    side: int
    lanes: int
    dense_s: Quartiles
    int8_s: Quartiles
    ratio: Quartiles

    def cells(self) -> list[str]:
        """Return the row of the table, in the order of COLUMNS."""
        times = (self.dense_s.text(1e3), self.int8_s.text(1e3), self.ratio.text(1, 2))
        return [self.model, str(self.side), str(self.lanes), *times]


def measure_int8(names: Sequence[str], sides: Sequence[int], patience: Patience) -> list[Int8Row]:
    """Measure steps of one guided lane and of four, in turn."""
    rows = []
    for name in names:
        subject = build(name, torch.device("cpu"), "float32")
        kinds = [(layer, Int8Rows.of(layer.weight)) for layer in block_layers(subject)]
        rows += [_measure(subject, kinds, side, lanes, patience) for side in sides for lanes in (1, 4)]
    return rows


def int8_report(rows: Sequence[Int8Row], likeness_db: Sequence[float]) -> Report:
    """Return the table, and how like lego-tiny's images are to those in fp32."""
    remarks = []
    if likeness_db:
        mean, least = sum(likeness_db) / len(likeness_db), min(likeness_db)
        remarks.append(
            f"lego-tiny at {SIDE} x {SIDE}, {STEPS} steps, {len(likeness_db)} held-out prompts: "
            f"PSNR to fp32 {mean:.1f} dB in the mean, {least:.1f} at least."
        )
    return Report("A step in 8 bits", COLUMNS, [row.cells() for row in rows], rows, remarks)


def likeness(count: int) -> list[float]:
    """Return the PSNR of lego-tiny's images with 8-bit blocks to those without, in decibels."""
    spec = ModelSpec("lego-tiny", "builtin:lego-tiny", dtype="float32", max_sequence_length=0)
    pairs = zip(held_out_prompts(1, -(-count // 2)), held_out_prompts(2, -(-count // 2)), strict=True)
    texts = tuple(prompt.text for pair in pairs for prompt in pair)[:count]
    images, row = Calibration(texts, SIDE, SIDE, 4.0), Row("exact", None, STEPS)
    dense, int8 = (
        draw_row(OfflinePipeline.load(replace(spec, linear=linear)), images, row, steps=STEPS)
        for linear in ("dense", "int8")
    )
    everywhere = np.ones((SIDE, SIDE), dtype=bool)
    return [min(psnr(a, b, everywhere), 99.0) for a, b in zip(int8, dense, strict=True)]


def block_layers(subject: Subject) -> list[Linear]:
    """Return the layers of a model's blocks."""
    return [layer for layer in linears(vars(subject.backbone)) if layer.is_of_blocks]


def _measure(
    subject: Subject, kinds: Sequence[tuple[Linear, Int8Rows]], side: int, lanes: int, patience: Patience
) -> Int8Row:
    inputs = [subject.lane(seed, side, side) for seed in range(lanes)]

    def step() -> object:
        return subject.backbone.velocity(inputs)

    def int8_step() -> object:
        with _in_8_bits(kinds):
            return subject.backbone.velocity(inputs)

    runs: dict[str, Callable[[], object]] = {"dense": step, "int8": int8_step}
    times = take_turns(runs, torch.device("cpu"), patience)
    dense, int8 = times["dense"], times["int8"]
    return Int8Row(subject.name, side, lanes, Quartiles.of(dense), Quartiles.of(int8), ratios(dense, int8))


@contextmanager
def _in_8_bits(kinds: Sequence[tuple[Linear, Int8Rows]]) -> Iterator[None]:
    for layer, kind in kinds:
        layer.kind = kind
    try:
        yield
    finally:
        for layer, _ in kinds:
            layer.kind = None
