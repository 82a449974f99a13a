"""Divides a replica's work among tenants by start-time fair queueing (Goyal et al., 1996).

A tenant's level is the work it has had, divided by its weight; who stands lowest goes next.  Somebody who had nothing
to do comes back at the level of the work that began last: idling saves nothing up and costs nothing.  Among the work
of one tenant, and where only one has any, the given order stays as it is.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from heapq import heapify, heappop, heappush
from typing import TypeVar

Item = TypeVar("Item")
SHORT_STEP = 0.5  # part of a full step, where a tenant with little work shares it


class FairShares:
    """What each tenant of one queue has had; tenants are few, those that have keys."""

    def __init__(self) -> None:
        self._levels: dict[str, float] = {}
        self._begun = 0.0  # the level of the work that began last

    def level(self, tenant: str) -> float:
        """Return where a tenant stands: the work it has had for its weight, and no less than a newcomer."""
        return max(self._levels.get(tenant, 0.0), self._begun)

    def order(
        self, items: Sequence[Item], tenant_of: Callable[[Item], str], cost_of: Callable[[Item], float]
    ) -> list[Item]:
        """Return the items by turns of their tenants, those of one tenant as they were; ties go to the earlier item.

        ``cost_of``: the work of an item divided by the weight of its tenant.
        """
        queues: dict[str, deque[tuple[int, Item]]] = {}
        for position, item in enumerate(items):
            queues.setdefault(tenant_of(item), deque()).append((position, item))
        if len(queues) < 2:
            return list(items)
        heads = [(self.level(tenant), queue[0][0], tenant) for tenant, queue in queues.items()]
        heapify(heads)
        ordered: list[Item] = []
        while heads:
            level, _, tenant = heappop(heads)
            queue = queues[tenant]
            _, item = queue.popleft()
            ordered.append(item)
            if queue:
                heappush(heads, (level + cost_of(item), queue[0][0], tenant))
        return ordered

    def charge(self, costs: Mapping[str, float]) -> None:
        """Count work that was run together, by tenant and divided by its weight."""
        if not costs:
            return
        before = {tenant: self.level(tenant) for tenant in costs}
        self._begun = max(self._begun, min(before.values()))
        for tenant, cost in costs.items():
            self._levels[tenant] = before[tenant] + cost


def step_part(rows: Mapping[str, int], full_rows: float) -> float:
    """Return how long a step may be, as a part of a full one, given the rows that each tenant could run in it.

    A tenant that cannot use its part of a full step gains nothing by the step's length and waits for all of it, in each
    of its steps: then steps are short, at the price of some throughput.  Tenants that all have enough share full ones.
    """
    is_light = len(rows) > 1 and min(rows.values()) < full_rows / len(rows)
    return SHORT_STEP if is_light else 1.0
