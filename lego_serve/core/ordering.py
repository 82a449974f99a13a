"""Which lane goes first: plain functions from lanes, the time and a step's predicted seconds to an order.

Each answers the lanes' indices, first to run first; ties go to the lane that was added first.
Nothing starves: a lane gains on later ones by its waiting alone, without bound (`AGEING_RATIO`),
while all that a newcomer can have for itself (an early deadline, much or little work, a large
weight) is worth a bounded number of seconds.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

AGEING_RATIO = 0.5  # seconds of slack, or of work, that a second of waiting is worth
PATIENCE_S = 60.0  # slack of a new lane that has no deadline
WEIGHT_S = 10.0  # seconds of slack that a doubled weight is worth
SHORTEST_STEP_S = 1e-6


class Orderable(Protocol):
    """What an order may look at."""

    @property
    def added_s(self) -> float:
        """When the lane arrived."""
        ...

    @property
    def deadline_s(self) -> float | None:
        """When it must be done."""
        ...

    @property
    def weight(self) -> float:
        """Its tenant's weight."""
        ...

    @property
    def steps_left(self) -> int:
        """Forward passes it still needs."""
        ...


Order = Callable[[Sequence[Orderable], float, float], list[int]]


def fifo(lanes: Sequence[Orderable], now: float, step_s: float) -> list[int]:
    """First come, first served."""
    return sorted(range(len(lanes)), key=lambda i: lanes[i].added_s)


def least_slack(lanes: Sequence[Orderable], now: float, step_s: float) -> list[int]:
    """Least slack (deadline - now - remaining work) first, aged by waiting and shifted by weight.

    A lane without a deadline has ``PATIENCE_S`` less its waiting, whatever its work, so that such
    lanes run to their end one after the other instead of taking turns and all ending late.
    """

    def key(index: int) -> float:
        lane = lanes[index]
        waited = now - lane.added_s
        work_s = lane.steps_left * step_s
        slack = PATIENCE_S - waited if lane.deadline_s is None else lane.deadline_s - now - work_s
        return slack - AGEING_RATIO * waited - WEIGHT_S * math.log2(lane.weight)

    return sorted(range(len(lanes)), key=key)


def shortest_remaining(lanes: Sequence[Orderable], now: float, step_s: float) -> list[int]:
    """Least remaining work first, aged by waiting."""
    step = max(step_s, SHORTEST_STEP_S)

    def key(index: int) -> float:
        lane = lanes[index]
        return lane.steps_left * step - AGEING_RATIO * (now - lane.added_s)

    return sorted(range(len(lanes)), key=key)


ORDERS: Mapping[str, Order] = {"fifo": fifo, "least_slack": least_slack, "shortest_remaining": shortest_remaining}
