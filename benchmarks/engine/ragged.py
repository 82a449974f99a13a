"""The cost of lanes of different sizes in one step: a mix against as many tokens in lanes of one size.

Every mix has the mean size of its uniform batch, and so the rows of its linear layers.  Its attention has more
query-key pairs, since they grow with the square of a lane's rows.  The engine's cost model predicts the ratio that this
explains; the rest is the price of a ragged batch.
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
    "model",
    "mix",
    "shapes",
    "lanes",
    "tokens",
    "ms, uniform",
    "ms, ragged",
    "ragged over uniform",
    "pairs",
    "pairs explain",
    "left",
)


@dataclass(frozen=True, slots=True)
class Mix:
    """Lanes of many sizes, and the one size of all lanes of its uniform batch."""

    name: str
    sizes: tuple[Size, ...]
    uniform: Size

    def scaled(self, factor: int) -> "Mix":
        """Return the mix with images so many times as wide and high."""
        sizes = tuple((rows * factor, columns * factor) for rows, columns in self.sizes)
        return Mix(self.name, sizes, (self.uniform[0] * factor, self.uniform[1] * factor))


MIXES = (
    Mix("two sizes near the mean", ((6, 8),) * 2 + ((8, 8),) * 4 + ((8, 10),) * 2, (8, 8)),
    Mix("eight sizes", ((4, 8), (8, 12), (6, 8), (8, 10), (4, 7), (10, 10), (4, 4), (8, 14)), (8, 8)),
    Mix("eight larger sizes", ((8, 8), (14, 16), (8, 10), (13, 16), (9, 12), (12, 15), (8, 12), (12, 16)), (12, 12)),
    Mix("half small, half large", ((8, 8),) * 4 + ((16, 16),) * 4, (10, 16)),
)


@dataclass(frozen=True, slots=True)
class RaggedRow:
    """One mix.

    ``pairs_ratio``: query-key pairs over those of the uniform batch.  ``explained``: the ratio of times that the cost
    model predicts for them.  ``left``: the measured ratio over the explained one.
    """

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
        """Return the row of the table, in the order of COLUMNS."""
        return [
            self.model,
            self.mix,
            str(self.shapes),
            str(self.lanes),
            str(self.tokens),
            self.uniform_s.text(1000),
            self.ragged_s.text(1000),
            self.ratio.text(digits=3),
            f"{self.pairs_ratio:.2f}",
            f"{self.explained:.2f}",
            f"{self.left:.2f}",
        ]


def measure_ragged(subject: Subject, mixes: Sequence[Mix], patience: Patience) -> list[RaggedRow]:
    """Measure every mix against its uniform batch."""
    rates = calibrate(subject.backbone)
    return [_measure(subject, mix.scaled(subject.architecture.scale), rates, patience) for mix in mixes]


def ragged_report(rows: Sequence[RaggedRow]) -> Report:
    """Return the table, and which mixes miss the target."""
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
    ragged_work, uniform_work = work_of(subject.backbone, ragged), work_of(subject.backbone, uniform)
    ratio = ratios(times["ragged"], times["uniform"])
    uniform_s = rates.seconds(uniform_work.rows, uniform_work.pairs)
    explained = rates.seconds(ragged_work.rows, ragged_work.pairs) / uniform_s
    return RaggedRow(
        model=subject.name,
        mix=mix.name,
        shapes=len(set(mix.sizes)),
        lanes=len(mix.sizes),
        tokens=sum(rows * columns for rows, columns in mix.sizes),
        uniform_s=Quartiles.of(times["uniform"]),
        ragged_s=Quartiles.of(times["ragged"]),
        ratio=ratio,
        pairs_ratio=ragged_work.pairs / uniform_work.pairs,
        explained=explained,
        left=ratio.median / explained,
    )
