"""What it costs that the lanes of a step differ in size: a mix against as many tokens in lanes all alike.

Every mix has the mean size, and so the linear layers' rows, of its uniform batch.  Its attention has
more query-key pairs, since they grow with the square of a lane's rows; what that explains is the ratio
that the engine's own cost model predicts, and the rest is the price of being ragged.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.engine.models import Subject
from benchmarks.engine.report import Report
from benchmarks.engine.timing import Patience, Quartiles, ratios, take_turns
from lego_serve.core.costs import Rates
from lego_serve.engine.calibration import calibrate, work_of

TARGET = 1.10
Size = tuple[int, int]  # token rows and columns
COLUMNS = (
    "model", "mix", "shapes", "lanes", "tokens", "ms, uniform", "ms, ragged",
    "ragged over uniform", "pairs", "pairs explain", "left",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Mix:
    """Lanes of many sizes, and the size all lanes of its uniform batch have."""

    name: str
    sizes: tuple[Size, ...]
    uniform: Size

    def scaled(self, by: int) -> "Mix":
        """The same in images so many times as wide and high."""
        sizes = tuple((rows * by, columns * by) for rows, columns in self.sizes)
        return Mix(self.name, sizes, (self.uniform[0] * by, self.uniform[1] * by))


MIXES = (
    Mix("two sizes near the mean", ((6, 8),) * 2 + ((8, 8),) * 4 + ((8, 10),) * 2, (8, 8)),
    Mix("eight sizes", ((4, 8), (8, 12), (6, 8), (8, 10), (4, 7), (10, 10), (4, 4), (8, 14)), (8, 8)),
    Mix("eight larger sizes", ((8, 8), (14, 16), (8, 10), (13, 16), (9, 12), (12, 15), (8, 12), (12, 16)), (12, 12)),
    Mix("half small, half large", ((8, 8),) * 4 + ((16, 16),) * 4, (10, 16)),
)


@dataclass(frozen=True, slots=True)
class RaggedRow:
    """One mix.  ``pairs_ratio``: query-key pairs over the uniform batch's; ``explained``: what the cost model says
    that they make of the time; ``left``: the ratio measured over the ratio explained."""

    model: str
    mix: str
    shapes: int
    lanes: int
    tokens: int
    uniform_s: Quartiles
    ragged_s: Quartiles
    ratio: Quartiles
    pairs_ratio: float
    explained: float
    left: float

    def cells(self) -> list[str]:
        """The row of the table."""
        counts = [str(number) for number in (self.shapes, self.lanes, self.tokens)]
        times = [self.uniform_s.told(1000), self.ragged_s.told(1000), self.ratio.told(digits=3)]
        return [
            self.model,
            self.mix,
            *counts,
            *times,
            *(f"{n:.2f}" for n in (self.pairs_ratio, self.explained, self.left)),
        ]


def measure_ragged(subject: Subject, mixes: Sequence[Mix], patience: Patience) -> list[RaggedRow]:
    """Every mix against its uniform batch."""
    rates = calibrate(subject.backbone)
    return [_measure(subject, mix.scaled(subject.architecture.scale), rates, patience) for mix in mixes]


def ragged_report(rows: Sequence[RaggedRow]) -> Report:
    """The table, and how it stands to the target."""
    over = [f"{row.model}, {row.mix} ({row.ratio.median:.2f})" for row in rows if row.ratio.median > TARGET]
    if over:
        remark = f"Over the target of {TARGET:.2f}: {'; '.join(over)}."
    else:
        remark = f"Every mix keeps to the target of {TARGET:.2f}."
    return Report("A ragged batch against a uniform one", COLUMNS, [row.cells() for row in rows], rows, [remark])


def _measure(subject: Subject, mix: Mix, rates: Rates, patience: Patience) -> RaggedRow:
    ragged = [subject.lane(seed, *size) for seed, size in enumerate(mix.sizes, start=1)]
    uniform = [subject.lane(seed, *mix.uniform) for seed in range(1, len(mix.sizes) + 1)]
    velocity = subject.backbone.velocity
    runs = {"uniform": lambda: velocity(uniform), "ragged": lambda: velocity(ragged)}
    times = take_turns(runs, subject.device, patience)
    ours, even = work_of(subject.backbone, ragged), work_of(subject.backbone, uniform)
    ratio = ratios(times["ragged"], times["uniform"])
    explained = rates.seconds(ours.rows, ours.pairs) / rates.seconds(even.rows, even.pairs)
    return RaggedRow(
        subject.name,
        mix.name,
        len(set(mix.sizes)),
        len(mix.sizes),
        sum(rows * columns for rows, columns in mix.sizes),
        Quartiles.of(times["uniform"]),
        Quartiles.of(times["ragged"]),
        ratio,
        ours.pairs / even.pairs,
        explained,
        ratio.median / explained,
    )
