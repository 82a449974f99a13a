"""How many replicas each node has, decided for all nodes of a server together under one budget.

Nodes are looked at one after the other, each with the requests that it has in hand; the scaler of a cluster's pools
decides from them at most once in TICK_S.  A replica is full with ``full`` requests in hand, so that so many keep one
busy.  Jobs that wait for a shared worker count as those it has in hand, for whoever places them sends no worker more
than it has room for.  Laws: what is decided stays within a node's bounds and, all nodes together, within the budget,
what is being stopped counted in; nothing that takes of the budget grows in the first moments, in which not all nodes
were seen and some may be stopping that an earlier scaler decided on; a worker that is full asks for another one, also
where nobody tells of those that wait; bounds that change hold at the next look; what somebody else has changed is where
it goes on from, and what is not done yet is told again.
"""

import math
from dataclasses import dataclass

from lego_serve.core.cluster.autoscaling import PoolBounds, Scaler, ScalerRule
from lego_serve.core.scheduling.autoscaling import BOUNDS, ReplicaBounds, ScaleDecision

TICK_S = 1.0
FORGOTTEN_TICKS = 120  # without a look at a node, which is then gone; not a time, since all looks may stall together
LONGEST_S = 10.0  # for which one look stands
FULL = 8.0  # requests in hand that keep a replica busy
WORKER_FULL = 6.0  # the same of a shared worker: fewer than the jobs that a pool binds to each, `PoolRule.ahead`
RULE = ScalerRule(target_load=1.0, drain_s=30.0)


@dataclass(frozen=True, slots=True)
class ReplicaLook:
    """What is seen of a node: its bounds, the replicas it is to have, its requests, and what each replica costs.

    ``ongoing`` are the requests that were sent to replicas, ``waiting`` the jobs that were sent to none yet; ``full``
    of both keep one replica busy.
    """

    bounds: ReplicaBounds
    current: int
    ongoing: float
    cost: float = 0.0
    waiting: float = 0.0
    full: float = FULL


@dataclass(slots=True)
class _Node:
    bounds: ReplicaBounds
    size: int
    told: int
    seen: int  # by the last look
    seen_s: float
    reason: str = ""
    missed: int = 0  # ticks since the last look


class ReplicaScaler:
    """Decides the replicas of the nodes that share a budget, infinite where nothing bounds them."""

    def __init__(self, budget: float = float("inf"), rule: ScalerRule | None = None) -> None:
        self._scaler = Scaler(rule or RULE, {}, budget)
        self._nodes: dict[str, _Node] = {}
        self._ticked_s = float("-inf")

    def look(self, name: str, look: ReplicaLook, now: float) -> ScaleDecision:
        """Take a look at a node; return the replicas that it should have, and why that changed last."""
        node = self._nodes.get(name)
        if math.isinf(self._ticked_s):
            self._scaler.begin(now)
        if node is None:
            node = self._nodes[name] = _Node(look.bounds, look.current, look.current, look.current, now)
        if look.current not in (node.told, node.seen):  # somebody else has set it
            node.size = look.current
        self._scaler.set_bounds(name, PoolBounds(look.bounds.min, look.bounds.max, gpus=look.cost))
        seconds = min(LONGEST_S, max(0.0, now - node.seen_s))
        self._scaler.kept_busy(name, (look.ongoing + look.waiting) / look.full, seconds, now)
        node.bounds, node.seen, node.seen_s, node.missed = look.bounds, look.current, now, 0
        if not 0 <= now - self._ticked_s < TICK_S or look.bounds.clamp(node.size) != node.size:
            self._tick(now)
        node.told = node.size
        return ScaleDecision(node.size, node.reason)

    def _tick(self, now: float) -> None:
        self._ticked_s = now
        for node in self._nodes.values():
            node.missed += 1
        for name in [name for name, node in self._nodes.items() if node.missed > FORGOTTEN_TICKS]:
            del self._nodes[name]
            self._scaler.remove(name)
        sizes = self._scaler.decide({name: node.size for name, node in self._nodes.items()}, now)
        for change in sizes.changes:
            node = self._nodes[change.pool]
            is_bounded = node.bounds.clamp(change.before) != change.before
            is_whole = node.bounds.clamp(change.after) == change.after  # the budget may leave fewer
            node.size, node.reason = change.after, BOUNDS if is_bounded and is_whole else change.reason
