"""What a reference image costs a step: its rows kept and appended, next to a sequence that has them concatenated."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmarks.engine.models import Subject
from benchmarks.engine.report import Report
from benchmarks.engine.timing import Patience, Quartiles, ratios, take_turns
from lego_serve.models.ragged.activations import ACTIVATION_CODECS, Activations
from lego_serve.models.ragged.lane_input import LaneInput

SIDE, STEPS = 16, 20  # token rows and columns of image and reference; the steps that one filling pass serves
CODING = "float32"
COLUMNS = (
    "model",
    "lanes",
    "ms a step, no reference",
    "appended",
    "appended, with its pass over 20 steps",
    "concatenated",
)


@dataclass(frozen=True, slots=True)
class AppendedRow:
    """Steps of so many lanes of SIDE x SIDE tokens with a reference of as many, over steps without one.

    ``amortised``: with the pass that fills the entry, of which every one of STEPS steps bears a part.
    """

    model: str
    lanes: int
    plain_s: Quartiles
    appended: Quartiles
    amortised: float
    concatenated: Quartiles

    def cells(self) -> list[str]:
        """Return the row of the table, in the order of COLUMNS."""
        return [
            self.model,
            str(self.lanes),
            self.plain_s.text(1000),
            self.appended.text(digits=2),
            f"{self.amortised:.2f}",
            self.concatenated.text(digits=2),
        ]


def measure_appended(subject: Subject, lanes: Sequence[int], patience: Patience) -> list[AppendedRow]:
    """Measure numbers of lanes that share one reference."""
    return [_measure(subject, count, patience) for count in lanes]


def _measure(subject: Subject, count: int, patience: Patience) -> AppendedRow:
    backbone = subject.backbone
    plain = [subject.lane(seed, SIDE, SIDE) for seed in range(count)]
    kept = Activations(ACTIVATION_CODECS[CODING])
    filling = _filling(subject, kept)
    backbone.velocity([filling])
    appended = [replace(lane, appended=(kept,)) for lane in plain]
    # Every branch's sequence has the reference in it, whose rows are computed in every step.
    branches = sum(1 if lane.negative is None else 2 for lane in plain)
    concatenated = appended + [replace(filling, capture=None)] * branches
    times = take_turns(
        {
            "plain": lambda: backbone.velocity(plain),
            "appended": lambda: backbone.velocity(appended),
            "concatenated": lambda: backbone.velocity(concatenated),
            "filling": lambda: backbone.velocity([filling]),
        },
        subject.device,
        patience,
    )
    over = ratios(times["appended"], times["plain"])
    filled = ratios(times["filling"], times["plain"])
    return AppendedRow(
        model=subject.name,
        lanes=count,
        plain_s=Quartiles.of(times["plain"]),
        appended=over,
        amortised=over.median + filled.median / STEPS,
        concatenated=ratios(times["concatenated"], times["plain"]),
    )


def _filling(subject: Subject, entry: Activations) -> LaneInput:
    """Return the pass over the reference: at time 0, without text."""
    lane = subject.lane(1000, SIDE, SIDE)
    nothing = replace(lane.cond, tokens=lane.cond.tokens[:0])
    return replace(lane, time=0.0, cond=nothing, negative=None, capture=entry, frame=1)


def appended_report(rows: Sequence[AppendedRow]) -> Report:
    """Return the table."""
    return Report(
        title="Steps with a reference of 256 rows, over steps without one",
        columns=COLUMNS,
        rows=[row.cells() for row in rows],
        records=rows,
        remarks=(
            f"{SIDE} x {SIDE} tokens of image and of reference; keys and values kept in {CODING}.",
            "Concatenated: the reference's rows are computed for each branch in each step, and see each other alone.",
        ),
    )
