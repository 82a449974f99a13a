"""How many replicas each node is to have, who bounds that, and the last changes with their reasons.

One board is kept beside Serve's controller, which alone writes it; gateways read it.  It travels as JSON.
"""

import json
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lego_serve.core.scheduling.autoscaling import BOUNDS, ReplicaBounds, ScaleDecision

CHANGES_KEPT = 200
PLACED = "no replica waits for a node any more"


@dataclass(frozen=True, slots=True)
class NodeScale:
    """The replicas that a node is to have now, and their bounds; ``is_pinned``: by an operator, until a restart.

    ``waits`` says what some of them wait for, in words; nothing where each has its place.
    """

    target: int
    bounds: ReplicaBounds
    is_pinned: bool = False
    waits: str = ""


@dataclass(frozen=True, slots=True)
class ScaleChange:
    """A change of a node's target, or, where ``before`` is ``after``, of its bounds or of what its replicas wait for.

    ``at`` is the wall clock.
    """

    number: int
    at: float
    node: str
    before: int
    after: int
    why: str


class ScaleBoard:
    """The targets of all nodes by name, and the last changes, oldest first."""

    def __init__(self, nodes: Mapping[str, NodeScale] | None = None, changes: Sequence[ScaleChange] = ()) -> None:
        self.nodes = dict(nodes or {})
        self.changes: deque[ScaleChange] = deque(changes, maxlen=CHANGES_KEPT)

    def note(
        self,
        node: str,
        current: int,
        decision: ScaleDecision,
        bounds: ReplicaBounds,
        now: float,
        *,
        is_pinned: bool = False,
        waits: str = "",
    ) -> bool:
        """Take a decision about a node that had ``current`` replicas as its target; return whether it says a new thing.

        The first word about a node is no change, but where replicas wait: it has just been deployed.
        """
        before, scale = self.nodes.get(node), NodeScale(decision.replicas, bounds, is_pinned, waits)
        if scale == before:
            return False
        self.nodes[node] = scale
        if before is not None and decision.replicas != current:
            self._add(node, current, decision.replicas, self._why(decision, bounds, is_pinned), now)
        elif before is not None and (before.bounds, before.is_pinned) != (bounds, is_pinned):
            self._add(node, current, current, self._why(None, bounds, is_pinned), now)
        if waits != ("" if before is None else before.waits):
            self._add(node, decision.replicas, decision.replicas, waits or PLACED, now)
        return True

    def to_json(self) -> str:
        """Return it as text."""
        nodes = {
            name: [each.target, each.bounds.min, each.bounds.max, each.is_pinned, each.waits]
            for name, each in self.nodes.items()
        }
        changes = [[c.number, c.at, c.node, c.before, c.after, c.why] for c in self.changes]
        return json.dumps({"nodes": nodes, "changes": changes}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> "ScaleBoard":
        """Return what ``to_json`` wrote; an empty one from an empty text."""
        if not text:
            return cls()
        read = json.loads(text)
        nodes = {
            name: NodeScale(target, ReplicaBounds(least, most), *more)
            for name, (target, least, most, *more) in read["nodes"].items()
        }
        return cls(nodes, [ScaleChange(*each) for each in read["changes"]])

    def _add(self, node: str, before: int, after: int, why: str, now: float) -> None:
        number = self.changes[-1].number + 1 if self.changes else 1
        self.changes.append(ScaleChange(number, round(now, 3), node, before, after, why))

    @staticmethod
    def _why(decision: ScaleDecision | None, bounds: ReplicaBounds, is_pinned: bool) -> str:
        if decision is not None and decision.reason != BOUNDS:
            return decision.reason
        many = f"{bounds.min}" if bounds.min == bounds.max else f"{bounds.min} to {bounds.max}"
        replicas = "replica" if bounds.max == 1 else "replicas"
        whose = "an operator pinned it to" if is_pinned else "its configuration allows"
        return f"{whose} {many} {replicas}"


def pin_reason(bounds: ReplicaBounds | None) -> str:
    """Say why a node is to have a number of replicas; None is what its configuration says."""
    if bounds is None:
        return "its configuration holds again"
    many = f"{bounds.min}" if bounds.min == bounds.max else f"{bounds.min} to {bounds.max}"
    return f"an operator wants {many} replicas, until a restart"
