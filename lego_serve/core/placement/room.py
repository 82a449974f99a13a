"""What replicas wait for that no Ray node has room for: one that an autoscaler adds, or nothing that will ever come.

Ray keeps what each actor asks that has no node, its autoscaler reads that, and says in turn which of it none of the
nodes that it may still add would hold.  Laws: no more replicas of a node wait than are missing and than are asked for;
it is told only once that has lasted for SETTLED_S, since whatever is to be placed has no node at first, and what the
autoscaler says of it is as old as its last look.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

SETTLED_S = 10.0
PRECISION = 1e-3  # Ray keeps amounts in ten-thousandths


@dataclass(frozen=True, slots=True)
class LabelRule:
    """A label that a Ray node must have with one of some values, or, where ``is_excluded``, with none of them."""

    key: str
    values: frozenset[str]
    is_excluded: bool = False

    @classmethod
    def read(cls, key: str, rule: str) -> "LabelRule":
        """Return a rule as Ray reads its text: `VALUE`, `!VALUE`, `in(VALUE, VALUE)` or `!in(...)`."""
        bare = rule.removeprefix("!")
        listed = re.fullmatch(r"in\((.*)\)", bare)
        values = [bare] if listed is None else listed[1].split(",")
        return cls(key, frozenset(each.strip() for each in values), rule.startswith("!"))

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Whether a node of these labels may be taken."""
        return (labels.get(self.key) in self.values) != self.is_excluded

    def words(self) -> str:
        """Return it in words."""
        values = " or ".join(sorted(self.values))
        return f"{self.key} is {'not ' if self.is_excluded else ''}{values}"


@dataclass(frozen=True, slots=True)
class Ask:
    """What a replica asks of one Ray node: amounts by the names of Ray's resources, and rules of labels."""

    amounts: Mapping[str, float]
    rules: frozenset[LabelRule] = frozenset()

    @classmethod
    def of(cls, amounts: Mapping[str, float], labels: Mapping[str, str]) -> "Ask":
        """Return what asks for these amounts, of which those of 0 are none, on nodes with these labels."""
        rules = frozenset(LabelRule.read(key, rule) for key, rule in labels.items())
        return cls({name: amount for name, amount in amounts.items() if amount}, rules)

    def is_like(self, other: "Ask") -> bool:
        """Whether both ask the same, as far as Ray tells small differences of amounts."""
        if self.rules != other.rules or self.amounts.keys() != other.amounts.keys():
            return False
        pairs = ((amount, other.amounts[name]) for name, amount in self.amounts.items())
        return all(math.isclose(one, two, rel_tol=PRECISION, abs_tol=PRECISION) for one, two in pairs)

    def words(self) -> str:
        """Return it in words."""
        amounts = " and ".join(f"{amount:g} {name}" for name, amount in sorted(self.amounts.items())) or "a place"
        where = " and ".join(sorted(rule.words() for rule in self.rules))
        return f"{amounts} free where {where}" if where else f"{amounts} free"


@dataclass(frozen=True, slots=True)
class ClusterRoom:
    """What has no node, each with how often it is asked, and what the autoscaler adds none for.

    ``is_growing``: whether there is an autoscaler; one that may add no node at all refuses everything.
    """

    asked: tuple[tuple[Ask, int], ...] = ()
    refused: tuple[Ask, ...] = ()
    is_growing: bool = False

    def waiting(self, ask: Ask) -> int:
        """Return how many that ask this have no node."""
        return sum(count for each, count in self.asked if each.is_like(ask))

    def may_come(self, ask: Ask) -> bool:
        """Whether a node with room for this may still be added."""
        return self.is_growing and not any(each.is_like(ask) for each in self.refused)

    def why(self, ask: Ask, waiting: int, wanted: int) -> str:
        """Say what so many of the replicas that are wanted of a node wait for."""
        who = f"{waiting} of {wanted} replicas {'waits' if waiting == 1 else 'wait'} for a node"
        then = "until the autoscaler has added one" if self.may_come(ask) else "and nothing adds one"
        return f"{who}: none has {ask.words()}, {then}"


class NodeWaits:
    """Since when replicas of which applications have no node."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}

    def look(self, app: str, wanted: int, missing: int, ask: Ask, room: ClusterRoom, now: float) -> str:
        """Say what replicas of an application wait for; nothing where none does, or not for long yet."""
        waiting = min(missing, room.waiting(ask))
        if waiting <= 0:
            self._since.pop(app, None)
            return ""
        since = min(now, self._since.get(app, now))
        self._since[app] = since
        return room.why(ask, waiting, wanted) if now - since >= SETTLED_S else ""
