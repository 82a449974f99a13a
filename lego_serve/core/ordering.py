"""Which lane goes first: plain functions from lanes and the time to a sorted list.

Lower keys go first.  Ageing takes ``AGEING_RATIO`` seconds of slack from a lane for each second it
has waited, so that no stream of urgent newcomers can starve it.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

AGEING_RATIO = 0.5
DEFAULT_PATIENCE_S = 60.0


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
    """Least (deadline - now - remaining work) first, aged by waiting and divided by weight."""

    def key(index: int) -> float:
        lane = lanes[index]
        deadline = lane.added_s + DEFAULT_PATIENCE_S if lane.deadline_s is None else lane.deadline_s
        slack = deadline - now - lane.steps_left * step_s - AGEING_RATIO * (now - lane.added_s)
        return slack / lane.weight if slack > 0 else slack * lane.weight

    return sorted(range(len(lanes)), key=key)


def shortest_remaining(lanes: Sequence[Orderable], now: float, step_s: float) -> list[int]:
    """Fewest steps left first, aged by waiting."""
    step = max(step_s, 1e-9)
    return sorted(
        range(len(lanes)), key=lambda i: lanes[i].steps_left - AGEING_RATIO * (now - lanes[i].added_s) / step
    )


ORDERS: dict[str, Order] = {"fifo": fifo, "least_slack": least_slack, "shortest_remaining": shortest_remaining}
