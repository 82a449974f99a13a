"""Which lane goes first: plain functions from lanes, the time and the replica's pace to an order.

Each answers the lanes' indices, first to run first; ties go to the lane that was added first.
Nothing starves: a lane gains on later ones by its waiting alone, without bound (`AGEING_RATIO`),
while all that a newcomer can have for itself (an early deadline, much or little work, a large
weight) is worth a bounded number of seconds.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from lego_serve.core.costs import Rates

AGEING_RATIO = 0.5  # seconds of slack, or of work, that a second of waiting is worth
PATIENCE_S = 60.0  # slack of a new lane that has no deadline
HOPELESS_S = 120.0  # slack a lane loses its place by when it cannot make its deadline even alone
WEIGHT_S = 10.0  # seconds of slack that a doubled weight is worth


@dataclass(frozen=True, slots=True)
class ReplicaPace:
    """How fast this replica is: its rates, and the seconds steps take lately, shared as they are."""

    rates: Rates
    step_s: float


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
    def left(self) -> tuple[float, float, float]:
        """Forward passes it still needs, and the rows and pairs of all of them; floats cost half of integers here."""
        ...


LanePolicy = Callable[[Sequence[Orderable], float, ReplicaPace], list[int]]


def fifo(lanes: Sequence[Orderable], now: float, pace: ReplicaPace) -> list[int]:
    """First come, first served."""
    return sorted(range(len(lanes)), key=[lane.added_s for lane in lanes].__getitem__)


def least_slack(lanes: Sequence[Orderable], now: float, pace: ReplicaPace) -> list[int]:
    """Least slack (deadline - now - remaining work) first, aged by waiting and shifted by weight.

    The remaining work is counted at the pace of shared steps.  A lane that could not make its
    deadline even alone goes behind those that can: served first it would only make more of them
    late.  A lane without a deadline has ``PATIENCE_S`` less its waiting, whatever its work, so that
    such lanes run to their end one after the other instead of taking turns and all ending late.
    """
    rates, step_s = pace.rates, pace.step_s
    row_s, pair_s, constant_s = rates.row_s, rates.pair_s, rates.constant_s
    # What all lanes lose alike by the time that passes is left out: (1 + AGEING_RATIO) * now.
    keys = []
    for lane in lanes:
        deadline_s = lane.deadline_s
        if deadline_s is None:
            key = PATIENCE_S + (1 + AGEING_RATIO) * lane.added_s
        else:
            steps, rows, pairs = lane.left
            key = deadline_s + AGEING_RATIO * lane.added_s - steps * step_s
            if deadline_s - now < steps * constant_s + rows * row_s + pairs * pair_s:
                key += HOPELESS_S
        weight = lane.weight
        keys.append(key if weight == 1.0 else key - WEIGHT_S * math.log2(weight))
    return sorted(range(len(lanes)), key=keys.__getitem__)


def shortest_remaining(lanes: Sequence[Orderable], now: float, pace: ReplicaPace) -> list[int]:
    """Least remaining work first, counted as if the lane ran alone, aged by waiting."""
    rates = pace.rates
    row_s, pair_s, constant_s = rates.row_s, rates.pair_s, rates.constant_s
    keys = []
    for lane in lanes:
        steps, rows, pairs = lane.left
        alone_s = steps * constant_s + rows * row_s + pairs * pair_s
        keys.append((alone_s + AGEING_RATIO * lane.added_s, steps))  # what the time takes from all alike is left out
    return sorted(range(len(lanes)), key=keys.__getitem__)


LANE_POLICIES: Mapping[str, LanePolicy] = {
    "fifo": fifo,
    "least_slack": least_slack,
    "shortest_remaining": shortest_remaining,
}
