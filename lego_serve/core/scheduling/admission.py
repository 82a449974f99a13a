"""Decides which jobs a gateway admits: a bound on the pending ones, and spare capacity for background work.

A job is pending from its admission to its end.  The functions are pure: the caller owns the counts.  It must count an
admitted job in the same turn in which it asked, or a burst of requests passes the bound together.
"""

from dataclasses import dataclass
from typing import Literal

QUIET_DIVISOR = 8  # background work starts beside at most an eighth of the jobs that may be pending

RejectReason = Literal["over_capacity", "busy"]


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """How many jobs may be pending, how many of them in the background, and when a rejected client may come back."""

    max_pending: int
    max_background: int = 1
    retry_after_s: float = 2.0

    def __post_init__(self) -> None:
        if self.max_pending < 1 or self.max_background < 0 or self.retry_after_s <= 0:
            raise ValueError(f"no job can be admitted under {self}")

    @property
    def max_quiet_pending(self) -> int:
        """The most pending jobs beside which background work may start."""
        return self.max_pending // QUIET_DIVISOR


@dataclass(frozen=True, slots=True)
class Load:
    """The jobs pending now, and how many of them nobody waits for."""

    pending: int = 0
    background: int = 0


@dataclass(frozen=True, slots=True)
class Admit:
    """The job may run."""


@dataclass(frozen=True, slots=True)
class Reject:
    """The job may not run now; ``reason`` labels the metric of rejections."""

    retry_after_s: float
    reason: RejectReason


def admit(limits: AdmissionLimits, load: Load, *, is_background: bool = False) -> Admit | Reject:
    """Decide about one more job; background work, for which nobody waits, runs only on a quiet server."""
    if load.pending >= limits.max_pending:
        return Reject(limits.retry_after_s, "over_capacity")
    if is_background and not has_spare_capacity(limits, load):
        return Reject(limits.retry_after_s, "busy")
    return Admit()


def has_spare_capacity(limits: AdmissionLimits, load: Load) -> bool:
    """Whether background work may start: few jobs are pending and no more than allowed run in the background."""
    return load.pending <= limits.max_quiet_pending and load.background < limits.max_background
