"""The record of a durable job: everything that must outlive the gateway that accepted it.

All times are seconds by the wall clock, because a record passes between processes and machines.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

Json: TypeAlias = object  # None, bool, int, float, str, or a list or mapping of these
PRIORITIES = range(-10, 11)  # the larger is claimed first


class JobStatus(StrEnum):
    """Where a job is: ``queued -> in_progress -> completed | failed | cancelled | expired``, and back to queued."""

    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def has_ended(self) -> bool:
        """Whether nothing changes any more."""
        return self not in (JobStatus.QUEUED, JobStatus.IN_PROGRESS)


@dataclass(frozen=True, slots=True)
class JobError:
    """Why a job failed, as the Images API would have answered, with its HTTP status."""

    code: str
    message: str
    type: str = "server_error"
    param: str | None = None
    status: int = 500


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where the ends of a job are told, and which of them; no events mean all."""

    url: str
    events: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StoredProgress:
    """How far a job was when that was last stored: percent of the whole, steps of the lane that is furthest behind."""

    percent: int = 0
    step: int = 0
    steps: int = 0
    images_done: int = 0
    eta_s: float | None = None


@dataclass(frozen=True, slots=True)
class JobRequest:
    """What a caller asked for, as it was accepted; none of it changes.

    ``seed`` was drawn when the job was submitted, so that every attempt makes the same image.  Images among the
    ``inputs`` are stored apart (see inputs.py).  ``key`` is the caller's idempotency key, ``fingerprint`` a hash of
    the parsed request under it.
    """

    endpoint: str
    workflow: str
    model: str
    inputs: Mapping[str, Json]
    seed: int
    tenant: str = "default"
    priority: int = 0
    deadline_at: float | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    webhook: Webhook | None = None
    key: str | None = None
    fingerprint: str | None = None
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class SettledTier:
    """The tier that an attempt found a job to run in, and the one that it was lowered from."""

    name: str
    lowered_from: str | None = None


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job as a store holds it.  ``transitions`` alone makes the next one.

    ``version`` grows with every write: writes compare it, and events have it as their id.  ``attempt`` grows with
    every claim and is the fence: who writes for an earlier attempt is refused.  ``deaths`` counts the attempts in a
    row whose owners died.  ``owner`` is the gateway process that has the job.  ``tier`` is that of its first attempt,
    which all others keep, where the job may be lowered; None where it may not, or has not been begun.
    """

    id: str
    request: JobRequest
    created_at: float
    queued_until: float  # a job that nobody claims until then expires
    keep_s: float  # how long the record and its files stay after the end
    status: JobStatus = JobStatus.QUEUED
    version: int = 1
    attempt: int = 0
    deaths: int = 0
    owner: str | None = None
    started_at: float | None = None
    completed_at: float | None = None
    progress: StoredProgress = field(default_factory=StoredProgress)
    result: Mapping[str, Json] | None = None
    error: JobError | None = None
    tier: SettledTier | None = None

    @property
    def expires_at(self) -> float | None:
        """When an ended job may be forgotten; None before its end."""
        return None if self.completed_at is None else self.completed_at + self.keep_s

    @property
    def first_attempt_that_counts(self) -> int:
        """The attempt from which on images are needed: the last one's, or none's where the job ended without them."""
        is_lost = self.status.has_ended and self.status is not JobStatus.COMPLETED
        return self.attempt + 1 if is_lost else self.attempt

    @property
    def due_at(self) -> float | None:
        """When time alone changes something about this job; None for never.  See ``transitions.overdue``."""
        if self.status.has_ended:
            return self.expires_at
        deadline = self.request.deadline_at
        if self.status is JobStatus.IN_PROGRESS:
            return deadline
        return self.queued_until if deadline is None else min(deadline, self.queued_until)
