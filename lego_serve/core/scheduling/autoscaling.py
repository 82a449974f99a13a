"""How many replicas of one node there should be for the requests it has; pure, over times that are given.

A change is wanted for a while before it is made: growth for ``up_delay_s``, shrinkage for ``down_delay_s``, so that a
short burst or lull moves nothing.  Invariants: a decision lies within the bounds; between two decisions at the same
time nothing changes; a number that is no longer wanted starts its wait anew.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ReplicaBounds:
    """The fewest and the most replicas of a node."""

    min: int
    max: int

    def clamp(self, replicas: int) -> int:
        """Return the nearest number within the bounds."""
        return max(self.min, min(self.max, replicas))


@dataclass(frozen=True, slots=True)
class ScaleState:
    """Since when growth (+1) or shrinkage (-1) has been wanted; 0 while neither is."""

    direction: int = 0
    since_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ScaleDecision:
    """The replicas there should be now, the state to decide from next time, and the reason in words."""

    replicas: int
    state: ScaleState
    reason: str


@dataclass(frozen=True, slots=True)
class ScalingRule:
    """Keeps about ``target_ongoing`` requests, running and queued, on each replica."""

    target_ongoing: float = 8.0
    up_delay_s: float = 30.0
    down_delay_s: float = 600.0

    def wanted(self, ongoing: float, bounds: ReplicaBounds) -> int:
        """The replicas that so many requests of all replicas together ask for."""
        return bounds.clamp(math.ceil(ongoing / self.target_ongoing))

    def decide(
        self, ongoing: float, current: int, bounds: ReplicaBounds, state: ScaleState, now: float
    ) -> ScaleDecision:
        """Decide how many replicas there should be, from ``current`` ones that were decided on before."""
        wanted = self.wanted(ongoing, bounds)
        if not bounds.min <= current <= bounds.max:
            return ScaleDecision(bounds.clamp(current), ScaleState(), "bounds")
        if wanted == current:
            return ScaleDecision(current, ScaleState(), f"{ongoing:g} requests suit {current}")
        direction = 1 if wanted > current else -1
        since_s = state.since_s if state.direction == direction else now
        delay_s = self.up_delay_s if direction > 0 else self.down_delay_s
        if now - since_s < delay_s:
            return ScaleDecision(
                current, ScaleState(direction, since_s), f"{ongoing:g} requests want {wanted}, waiting"
            )
        return ScaleDecision(wanted, ScaleState(), f"{ongoing:g} requests want {wanted}")
