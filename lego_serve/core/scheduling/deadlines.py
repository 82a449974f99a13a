"""Decides when a job ends at the latest, whatever its caller asked for."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DeadlineLimits:
    """Seconds that a job may take: without a deadline of its own, and at the most."""

    default_s: float = 600.0
    max_s: float = 3600.0

    def __post_init__(self) -> None:
        if not 0 < self.default_s <= self.max_s:
            raise ValueError(f"a job cannot have {self.default_s:g} s by default and at most {self.max_s:g} s")

    def latest(self, now: float, deadline_s: float | None) -> float:
        """Return when a job that begins now ends at the latest, given the deadline its caller names, if any."""
        return now + self.default_s if deadline_s is None else min(deadline_s, now + self.max_s)


DEFAULT_LIMITS = DeadlineLimits()
