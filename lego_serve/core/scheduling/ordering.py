"""Lane policies decide which lane goes first: functions from lanes, the time and the replica's pace to an order.

Each returns the lanes' indices, first to run first; ties go to the lane that was added first.  No lane starves: by
waiting it gains on later lanes without bound (`AGEING_RATIO`), while every advantage of a newcomer (an early deadline,
much or little work, a large weight) is worth a bounded number of seconds.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from lego_serve.core.costs import Rates

AGEING_RATIO = 0.5  # seconds of slack, or of work, that one second of waiting is worth
PATIENCE_S = 60.0  # slack of a new lane without a deadline
HOPELESS_S = 120.0  # penalty, in slack, of a lane that cannot meet its deadline even alone
WEIGHT_S = 10.0  # seconds of slack that a doubling of the weight is worth


@dataclass(frozen=True, slots=True)
class ReplicaPace:
    """The speed of a replica: its rates, and ``step_s``, the recent mean seconds of a step, shared by all its lanes."""

    rates: Rates
    step_s: float


class Orderable(Protocol):
    """The properties of a lane that a policy may use."""

    @property
    def added_s(self) -> float:
        """When the lane arrived."""
        ...

    @property
    def deadline_s(self) -> float | None:
        """When it must be done, or None."""
        ...

    @property
    def weight(self) -> float:
        """The weight of its tenant."""
        ...

    @property
    def left(self) -> tuple[float, float, float]:
        """The steps, rows and pairs still to run, as floats: they cost half as much here as integers."""
        ...


LanePolicy = Callable[[Sequence[Orderable], float, ReplicaPace], list[int]]


def fifo(lanes: Sequence[Orderable], now: float, pace: ReplicaPace) -> list[int]:
    """Order lanes by arrival."""
    return sorted(range(len(lanes)), key=[lane.added_s for lane in lanes].__getitem__)


def least_slack(lanes: Sequence[Orderable], now: float, pace: ReplicaPace) -> list[int]:
    """Order lanes by slack (deadline - now - remaining work), aged by waiting and shifted by weight.

    The remaining work is counted at the pace of shared steps.  A lane that could not meet its deadline even alone goes
    behind those that can: run first, it would only make more of them late.  The slack of a lane without a deadline is
    ``PATIENCE_S`` less its waiting, whatever its work, so that such lanes run to their end one after the other instead
    of taking turns and all ending late.
    """
    rates, step_s = pace.rates, pace.step_s
    row_s, pair_s, constant_s = rates.row_s, rates.pair_s, rates.constant_s
    # The term that all lanes share, (1 + AGEING_RATIO) * now, is left out: it does not change the order.
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
    """Order lanes by remaining work, counted as if each ran alone, aged by waiting."""
    rates = pace.rates
    row_s, pair_s, constant_s = rates.row_s, rates.pair_s, rates.constant_s
    keys = []
    for lane in lanes:
        steps, rows, pairs = lane.left
        alone_s = steps * constant_s + rows * row_s + pairs * pair_s
        keys.append((alone_s + AGEING_RATIO * lane.added_s, steps))  # `now` shifts all alike
    return sorted(range(len(lanes)), key=keys.__getitem__)


LANE_POLICIES: Mapping[str, LanePolicy] = {
    "fifo": fifo,
    "least_slack": least_slack,
    "shortest_remaining": shortest_remaining,
}
