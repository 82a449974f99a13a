"""What an attempt at a durable job comes to: the change that is written, and the error that is answered later."""

from collections.abc import Callable
from typing import TypeAlias

from lego_serve.core.durable_jobs.record import JobError, JobRecord, JobStatus
from lego_serve.core.durable_jobs.transitions import Change, cancel, expire, fail, hand_over
from lego_serve.errors import (
    CapacityError,
    DeadlineExceeded,
    JobCancelled,
    LegoError,
    NodeUnavailable,
    StoreUnavailable,
)
from lego_serve.gateway.errors import ServerStopping

Decide: TypeAlias = Callable[[JobRecord], Change]


class InputsUnavailable(StoreUnavailable):
    """The images of a stored request cannot be read now."""


# What says nothing of the job: it is as good as before, and goes round again.
NOT_NOW = (CapacityError, NodeUnavailable, ServerStopping, InputsUnavailable)


def decision_about(error: LegoError, attempt: int, now: float) -> Decide:
    """Return what to write about a job whose attempt met an error."""

    def decide(record: JobRecord) -> Change:
        deadline = record.request.deadline_at
        if isinstance(error, NOT_NOW):
            return hand_over(record, attempt)
        if isinstance(error, JobCancelled):
            return cancel(record, now)
        if isinstance(error, DeadlineExceeded) and deadline is not None and now >= deadline:
            return expire(record, now)
        stored = JobError(error.code, error.message, error.kind, error.param, error.status)
        return fail(record, attempt, stored, now)

    return decide


def stored_error(record: JobRecord) -> LegoError | None:
    """Return the error of a job that ended badly, as a synchronous request would have met it; None for another."""
    if record.status is JobStatus.CANCELLED:
        return JobCancelled("The job was cancelled.")
    if record.error is None:
        return None
    stored = record.error
    if record.status is JobStatus.EXPIRED:
        return DeadlineExceeded(stored.message)
    error = LegoError(stored.message, param=stored.param, code=stored.code)
    error.status, error.kind = stored.status, stored.type
    return error
