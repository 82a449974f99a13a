"""The values of autoscaling: how many replicas a node may have, and how many were decided on."""

from dataclasses import dataclass

BOUNDS = "bounds"  # the reason of a decision that bounds alone ask for


@dataclass(frozen=True, slots=True)
class ReplicaBounds:
    """The fewest and the most replicas of a node."""

    min: int
    max: int

    def clamp(self, replicas: int) -> int:
        """Return the nearest number within the bounds."""
        return max(self.min, min(self.max, replicas))


@dataclass(frozen=True, slots=True)
class ScaleDecision:
    """The replicas there should be now, and the reason of the last change in words, or BOUNDS."""

    replicas: int
    reason: str


@dataclass(frozen=True, slots=True)
class ReplicaShare:
    """What each replica of a node takes of a budget: GPUs, or processors; ``group`` names who shares it.

    Without a ``budget`` nothing bounds the group but each node's own bounds.
    """

    group: str = ""
    cost: float = 0.0
    budget: float | None = None


NO_BUDGET = ReplicaShare()
