"""Microseconds that planning a step takes, ``plan`` and ``commit``, by number of lanes and lane policy.

Nothing is computed: a step takes the seconds that the rates predict, and a lane that ends is replaced by a new one, so
that their number stays the same.
"""

import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from benchmarks.engine.report import Report
from benchmarks.engine.timing import Quartiles
from lego_serve.core.costs import Rates, StepWork
from lego_serve.core.scheduling.batching import StepBatcher, StepLimits
from lego_serve.core.scheduling.lane import Lane
from lego_serve.core.scheduling.ordering import LANE_POLICIES

LANES = (64, 256, 1024, 4096)
DEFAULT_ORDER = "least_slack"
TARGET_S = 50e-6
RATES = Rates(row_s=2e-5, pair_s=2e-9, constant_s=4e-3)  # of lego-tiny on one CPU core
ROWS = (104, 136, 192, 352, 576)  # of both branches, for images of 80 to 256 pixels
COLUMNS = ("order", "lanes", "lanes a step", "us a step", "growth over n log n", "from the row before")


@dataclass(frozen=True, slots=True)
class PlannerRow:
    """One lane policy and number of lanes.

    ``growth``: time over n log n, relative to that with the fewest lanes; ``growth_before``: relative to the row
    before, which the constant part of planning flatters less.
    """

    order: str
    lanes: int
    lanes_a_step: float
    step_s: Quartiles
    growth: float = 1.0
    growth_before: float = 1.0

    def cells(self) -> list[str]:
        """Return the row of the table, in the order of COLUMNS."""
        growth = [f"{self.growth:.2f}", f"{self.growth_before:.2f}"]
        return [self.order, str(self.lanes), f"{self.lanes_a_step:.1f}", self.step_s.text(1e6), *growth]


def measure_planner(lanes: Sequence[int] = LANES, steps: int = 400) -> list[PlannerRow]:
    """Measure every lane policy with every number of lanes."""
    rows: list[PlannerRow] = []
    for order in LANE_POLICIES:
        order_rows: list[PlannerRow] = []
        for count in lanes:
            times_s, chosen = _steps(order, count, steps)
            row = PlannerRow(order, count, chosen / steps, Quartiles.of(times_s))
            if order_rows:
                growth = _per_size(row) / _per_size(order_rows[0])
                row = replace(row, growth=growth, growth_before=_per_size(row) / _per_size(order_rows[-1]))
            order_rows.append(row)
        rows += order_rows
    return rows


def planner_report(rows: Sequence[PlannerRow]) -> Report:
    """Return the table, and whether it meets the targets."""
    remarks = []
    for row in rows:
        if row.order == DEFAULT_ORDER and row.lanes == LANES[0]:
            verdict = "keeps to" if row.step_s.median <= TARGET_S else "misses"
            remarks.append(f"{row.order}, the default, {verdict} {TARGET_S * 1e6:.0f} us at {row.lanes} lanes.")
    steepest = max((row for row in rows if row.lanes > LANES[0]), key=lambda row: row.growth)
    verdict = "no faster than" if steepest.growth <= 1 else "faster than"
    most = f"by at most {steepest.growth:.2f} of it ({steepest.order})"
    remarks.append(f"From {LANES[0]} lanes planning grows {verdict} n log n: {most}.")
    return Report("us to plan and commit a step", COLUMNS, [row.cells() for row in rows], rows, remarks)


def random_lanes(seed: int = 0) -> Iterator[Lane]:
    """Yield lanes in five sizes, with 8 to 28 steps, most with a deadline, a few of another weight."""
    draw = random.Random(seed)
    number = 0
    while True:
        rows = draw.choice(ROWS)
        work = (StepWork(rows, rows * rows // 2),) * draw.randint(8, 28)
        due_s = None if draw.random() < 0.2 else number * 1e-3 + draw.uniform(5, 60)
        yield Lane(str(number), work, number * 1e-3, due_s, weight=draw.choice((1.0, 1.0, 1.0, 2.0)))
        number += 1


def _steps(order: str, count: int, steps: int) -> tuple[list[float], int]:
    """Return the seconds of each step's planning, and the number of lanes over all steps."""
    new_lanes = random_lanes()
    batcher = StepBatcher(LANE_POLICIES[order], StepLimits(), RATES)
    times_s, chosen, now = [], 0, count * 1e-3
    for _ in range(steps):
        while batcher.lanes < count:
            batcher.add(next(new_lanes))
        started = time.perf_counter()
        plan = batcher.plan(now)
        planned = time.perf_counter()
        assert plan is not None
        ended_s = now + RATES.seconds(plan.work.rows, plan.work.pairs)
        resumed = time.perf_counter()
        batcher.commit(plan, now, ended_s)
        times_s.append(planned - started + time.perf_counter() - resumed)
        chosen, now = chosen + len(plan.keys), ended_s
    return times_s, chosen


def _per_size(row: PlannerRow) -> float:
    return row.step_s.median / (row.lanes * math.log2(row.lanes))
