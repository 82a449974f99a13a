"""Microseconds that planning a step takes, over numbers of lanes in hand and orders: ``plan`` and ``commit``.

Nothing is computed: a step takes the seconds that the rates promise, and a lane that ends is replaced
by a new one, so that as many stay in hand.
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
ROWS = (104, 136, 192, 352, 576)  # both branches of images of 80 to 256 pixels
COLUMNS = ("order", "lanes", "lanes a step", "us a step", "growth over n log n", "from the row before")


@dataclass(frozen=True, slots=True)
class PlannerRow:
    """One order and number of lanes.

    ``growth``: time over n log n relative to the fewest lanes of that order, ``growth_before`` to the row
    before, where what planning takes without any lanes flatters less.
    """

    order: str
    lanes: int
    lanes_a_step: float
    step_s: Quartiles
    growth: float = 1.0
    growth_before: float = 1.0

    def cells(self) -> list[str]:
        """The row of the table."""
        growth = [f"{self.growth:.2f}", f"{self.growth_before:.2f}"]
        return [self.order, str(self.lanes), f"{self.lanes_a_step:.1f}", self.step_s.told(1e6), *growth]


def measure_planner(lanes: Sequence[int] = LANES, steps: int = 400) -> list[PlannerRow]:
    """Every order with every number of lanes."""
    rows: list[PlannerRow] = []
    for order in LANE_POLICIES:
        of_order: list[PlannerRow] = []
        for count in lanes:
            times_s, chosen = _steps(order, count, steps)
            row = PlannerRow(order, count, chosen / steps, Quartiles.of(times_s))
            if of_order:
                growths = (_per_size(row) / _per_size(other) for other in (of_order[0], of_order[-1]))
                row = replace(row, growth=next(growths), growth_before=next(growths))
            of_order.append(row)
        rows += of_order
    return rows


def planner_report(rows: Sequence[PlannerRow]) -> Report:
    """The table, and how it stands to the targets."""
    remarks = []
    for row in rows:
        if row.order == DEFAULT_ORDER and row.lanes == LANES[0]:
            said = "keeps to" if row.step_s.median <= TARGET_S else "misses"
            remarks.append(f"{row.order}, the default, {said} {TARGET_S * 1e6:.0f} us at {row.lanes} lanes.")
    steepest = max((row for row in rows if row.lanes > LANES[0]), key=lambda row: row.growth)
    said = "no faster than" if steepest.growth <= 1 else "faster than"
    most = f"by at most {steepest.growth:.2f} of it ({steepest.order})"
    remarks.append(f"From {LANES[0]} lanes planning grows {said} n log n: {most}.")
    return Report("us to plan and commit a step", COLUMNS, [row.cells() for row in rows], rows, remarks)


def random_lanes(seed: int = 0) -> Iterator[Lane]:
    """Lanes as they come: five sizes, 8 to 28 steps, most with a deadline, a few of another weight."""
    draw = random.Random(seed)
    number = 0
    while True:
        rows = draw.choice(ROWS)
        work = (StepWork(rows, rows * rows // 2),) * draw.randint(8, 28)
        due_s = None if draw.random() < 0.2 else number * 1e-3 + draw.uniform(5, 60)
        yield Lane(str(number), work, number * 1e-3, due_s, weight=draw.choice((1.0, 1.0, 1.0, 2.0)))
        number += 1


def _steps(order: str, count: int, steps: int) -> tuple[list[float], int]:
    """The seconds of each step's planning, and how many lanes ran in all of them."""
    coming = random_lanes()
    batcher = StepBatcher(LANE_POLICIES[order], StepLimits(), RATES)
    times_s, chosen, now = [], 0, count * 1e-3
    for _ in range(steps):
        while batcher.lanes < count:
            batcher.add(next(coming))
        started = time.perf_counter()
        plan = batcher.plan(now)
        planned = time.perf_counter()
        assert plan is not None
        then = now + RATES.seconds(plan.work.rows, plan.work.pairs)
        resumed = time.perf_counter()
        batcher.commit(plan, now, then)
        times_s.append(planned - started + time.perf_counter() - resumed)
        chosen, now = chosen + len(plan.keys), then
    return times_s, chosen


def _per_size(row: PlannerRow) -> float:
    return row.step_s.median / (row.lanes * math.log2(row.lanes))
