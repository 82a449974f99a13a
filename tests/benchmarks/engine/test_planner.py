"""Planning grows as it should: by n log n in the lanes."""

import time
from dataclasses import dataclass
from itertools import islice

import pytest

from benchmarks.engine import planner
from lego_serve.core.scheduling.batching import StepBatcher, StepLimits
from lego_serve.core.scheduling.ordering import LANE_POLICIES, LanePolicy, ReplicaPace


@dataclass
class Watched:
    """A lane that counts how often an order looks at it."""

    seconds: float
    weight: float = 2.0
    looks: int = 0

    @property
    def added_s(self) -> float:
        """When it came."""
        self.looks += 1
        return self.seconds

    @property
    def deadline_s(self) -> float | None:
        """When it is due."""
        self.looks += 1
        return 100 - self.seconds

    @property
    def left(self) -> tuple[float, float, float]:
        """What it still needs."""
        self.looks += 1
        return 3.0, 10.0, 100.0


@pytest.mark.parametrize("order", LANE_POLICIES.values(), ids=LANE_POLICIES.keys())
def test_an_order_looks_at_each_lane_a_bounded_number_of_times(order: LanePolicy) -> None:
    """Reading the lanes is linear in them, however many there are; the rest is one sort."""
    for count in (64, 4096):
        lanes = [Watched(i * 37 % count / count) for i in range(count)]
        assert len(order(lanes, 50.0, ReplicaPace(planner.RATES, 0.1))) == count
        assert max(lane.looks for lane in lanes) <= 3


def fastest_plan(order: str, count: int, repeats: int) -> float:
    """Processor seconds of the fastest of some plans of as many lanes."""
    batcher = StepBatcher(LANE_POLICIES[order], StepLimits(), planner.RATES)
    for lane in islice(planner.random_lanes(), count):
        batcher.add(lane)
    times: list[float] = []
    for _ in range(repeats):
        started = time.thread_time()
        batcher.plan(count * 1e-3)
        times.append(time.thread_time() - started)
    return min(times)


@pytest.mark.parametrize("order", LANE_POLICIES)
def test_planning_does_not_grow_with_the_square_of_lanes(order: str) -> None:
    """Sixteen times the lanes take 27 times the time by n log n and 256 times by their square; 80 tells them apart."""
    times = [fastest_plan(order, count, repeats) for count, repeats in ((64, 200), (1024, 40))]
    assert times[1] < 80 * times[0]
