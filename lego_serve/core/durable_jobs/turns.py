"""Whose job is claimed next: that of the tenant that has the fewest places for its weight, and then whose turn it is.

Priority, deadline and age order the jobs of one tenant (``ids.claim_order``); between tenants they say nothing, or
whoever asks for the highest priority would keep all others waiting.  Places are shared as max-min fairness has it
(Bertsekas and Gallager, 1992, 6.5.2): a tenant alone takes them all, one without any is next.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

NO_WEIGHTS: Mapping[str, float] = {}  # every tenant weighs 1


@dataclass(slots=True)
class Standing:
    """A tenant that has jobs waiting: how many run, and the number of the claim that it last had, 0 for none."""

    tenant: str
    running: int
    turn: int
    weight: float = 1.0


def next_tenant(waiting: Iterable[Standing]) -> Standing | None:
    """Return who is next; None where nobody waits.  The Redis store's script decides the same."""
    return min(waiting, key=lambda each: (each.running / each.weight, each.turn, each.tenant), default=None)
