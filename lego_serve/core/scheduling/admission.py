"""Decides which jobs a gateway admits, and until when they may run.

There are bounds on the pending ones, tenants' shares of them, and capacity for background work.

A job is pending from its admission to its end.  It counts as one job and as its images, each of which is a lane of its
own: both have a bound.  Where several tenants may come, none can hold all places: each may hold at most
``SHARE_OF_FREE`` times the places that are free (dynamic thresholds, Choudhury and Hahne, 1998), by its weight among
those that have jobs.  A tenant alone gets eight ninths, two at full load 8/17 each, and so on; what is left over is
for whoever comes next.

The functions are pure: the caller owns the counts.  It must count an admitted job in the same turn in which it asked,
or a burst of requests passes the bound together.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

CROWDED_DIVISOR = 2  # from half of the jobs that may be pending on, jobs that allow it run in a lower tier
QUIET_DIVISOR = 8  # background work starts beside at most an eighth of the jobs that may be pending
SHARE_OF_FREE = 8.0  # how many places a tenant may hold for each free one

RejectReason = Literal["over_capacity", "tenant_share", "busy"]


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """How many jobs and images may be pending, how many jobs in the background, and whether tenants share them.

    ``max_images`` does not keep a larger job from running alone.
    """

    max_pending: int
    max_background: int = 1
    max_images: int | None = None
    is_shared: bool = False

    def __post_init__(self) -> None:
        if self.max_pending < 1 or self.max_background < 0 or (self.max_images is not None and self.max_images < 1):
            raise ValueError(f"no job can be admitted under {self}")

    @property
    def max_quiet_pending(self) -> int:
        """The most pending jobs beside which background work may start."""
        return self.max_pending // QUIET_DIVISOR


@dataclass(frozen=True, slots=True)
class Holding:
    """The jobs and images that a tenant has pending, and its weight."""

    jobs: int = 0
    images: int = 0
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Load:
    """The jobs and images pending now, the jobs that nobody waits for, and what each tenant has of them."""

    pending: int = 0
    background: int = 0
    images: int = 0
    tenants: Mapping[str, Holding] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Applicant:
    """A job that asks to be admitted: its tenant, the tenant's weight, and its images."""

    tenant: str = "default"
    weight: float = 1.0
    images: int = 1
    is_background: bool = False


@dataclass(frozen=True, slots=True)
class Admit:
    """The job may run."""


@dataclass(frozen=True, slots=True)
class Reject:
    """The job may not run now; ``reason`` labels the metric of rejections."""

    reason: RejectReason


def admit(limits: AdmissionLimits, load: Load, job: Applicant = Applicant()) -> Admit | Reject:
    """Decide about one more job; background work, for which nobody waits, runs only on a quiet server."""
    max_images = limits.max_images
    has_images = max_images is None or load.pending == 0 or load.images + job.images <= max_images
    if load.pending >= limits.max_pending or not has_images:
        return Reject("over_capacity")
    if limits.is_shared and not _is_within_share(limits, load, job):
        return Reject("tenant_share")
    if job.is_background and not has_spare_capacity(limits, load):
        return Reject("busy")
    return Admit()


def has_spare_capacity(limits: AdmissionLimits, load: Load) -> bool:
    """Whether background work may start: few jobs are pending and no more than allowed run in the background."""
    return load.pending <= limits.max_quiet_pending and load.background < limits.max_background


def is_crowded(limits: AdmissionLimits, load: Load) -> bool:
    """Whether so many jobs or images are pending that a job should take less work, where its caller allows it."""
    max_images = limits.max_images
    has_many_images = max_images is not None and CROWDED_DIVISOR * load.images > max_images
    return CROWDED_DIVISOR * load.pending > limits.max_pending or has_many_images


def _is_within_share(limits: AdmissionLimits, load: Load, job: Applicant) -> bool:
    """Whether a tenant may hold one job more; a tenant without any may always."""
    held = load.tenants.get(job.tenant, Holding())
    if held.jobs == 0:
        return True
    heaviest = max(each.weight for each in load.tenants.values() if each.jobs)
    per_free = SHARE_OF_FREE * min(1.0, job.weight / heaviest)
    if held.jobs + 1 > per_free * (limits.max_pending - load.pending - 1):
        return False
    max_images = limits.max_images
    return max_images is None or held.images + job.images <= per_free * (max_images - load.images - job.images)


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


DEFAULT_DEADLINES = DeadlineLimits()
