"""Every change that a durable job can go through, as functions from a record to a Change.

    queued --claim--> in_progress --complete--> completed
      ^                |  |  |  |--fail-------> failed
      |--hand_over-----|  |  |--cancel, expire-> cancelled, expired (also from queued)
      |--release----------|   (the third death in a row: failed)

Rules.  An ended job never changes.  A claim raises ``attempt``, and what an attempt writes is refused once there is a
later one.  An attempt whose owner was given up may still end its job as long as nobody has claimed it again: the work
is done, and it is the same.  Every end brings its outbox rows along, to be written in the same transaction.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from lego_serve.core.durable_jobs.outbox import OutboxRow, rows_of
from lego_serve.core.durable_jobs.record import (
    PRIORITIES,
    JobError,
    JobRecord,
    JobRequest,
    JobStatus,
    Json,
    SettledTier,
    StoredProgress,
)
from lego_serve.errors import JobEnded, RequestError, StaleAttempt

MAX_DEATHS = 3  # in a row; a request that kills whoever runs it must not go round for ever


@dataclass(frozen=True, slots=True)
class Change:
    """A record and what becomes of it; a store writes it only while it still holds ``before``'s version."""

    before: JobRecord
    record: JobRecord
    outbox: tuple[OutboxRow, ...] = ()


@dataclass(frozen=True, slots=True)
class Retention:
    """How long jobs wait at most, and how long they and their files are kept after the end; seconds."""

    queued_s: float = 86_400.0
    ended_s: float = 86_400.0


def submit(job_id: str, request: JobRequest, now: float, retention: Retention | None = None) -> JobRecord:
    """Return the record of a job just accepted.  Raises RequestError for a priority that does not exist."""
    if request.priority not in PRIORITIES:
        allowed = f"from {PRIORITIES[0]} to {PRIORITIES[-1]}"
        raise RequestError(f"`priority` is {request.priority}; it must be {allowed}.", param="priority")
    kept = retention or Retention()
    return JobRecord(job_id, request, created_at=now, queued_until=now + kept.queued_s, keep_s=kept.ended_s)


def claim(record: JobRecord, owner: str, now: float) -> Change:
    """Give a queued job to an owner, as a new attempt.  Raises JobEnded, StaleAttempt where another has it."""
    _refuse_ended(record)
    if record.status is not JobStatus.QUEUED:
        raise StaleAttempt(f"Job {record.id} is being run in attempt {record.attempt}; it cannot be claimed.")
    started_at = now if record.started_at is None else record.started_at
    return _change(record, JobStatus.IN_PROGRESS, attempt=record.attempt + 1, owner=owner, started_at=started_at)


def progress(record: JobRecord, attempt: int, told: StoredProgress) -> Change:
    """Note how far an attempt is; the percentage never falls, though a later attempt may repeat steps.

    Raises JobEnded and StaleAttempt, also where the job was given up and is queued again.
    """
    _refuse_stale(record, attempt)
    if record.status is not JobStatus.IN_PROGRESS:
        raise StaleAttempt(f"Job {record.id} was taken from attempt {attempt}, whose owner was given up.")
    percent = max(0, min(100, max(told.percent, record.progress.percent)))
    return _change(record, JobStatus.IN_PROGRESS, told=replace(told, percent=percent))


def settle(record: JobRecord, attempt: int, tier: SettledTier) -> Change:
    """Note the tier that a job runs in, now and in later attempts; one that is settled stays.

    Raises JobEnded and StaleAttempt, as ``progress`` does.
    """
    decided = progress(record, attempt, record.progress)
    return replace(decided, record=replace(decided.record, tier=record.tier or tier))


def complete(record: JobRecord, attempt: int, result: Mapping[str, Json], now: float) -> Change:
    """End a job well.  Raises JobEnded, StaleAttempt."""
    _refuse_stale(record, attempt)
    done = replace(record.progress, percent=100, step=record.progress.steps, eta_s=None)
    return _end(replace(record, progress=done, result=result), record, JobStatus.COMPLETED, now)


def fail(record: JobRecord, attempt: int, error: JobError, now: float) -> Change:
    """End a job badly.  Raises JobEnded, StaleAttempt."""
    _refuse_stale(record, attempt)
    return _end(replace(record, error=error), record, JobStatus.FAILED, now)


def cancel(record: JobRecord, now: float) -> Change:
    """End a job because its caller or an operator said so; what still runs is fenced out.  Raises JobEnded."""
    _refuse_ended(record)
    return _end(record, record, JobStatus.CANCELLED, now)


def expire(record: JobRecord, now: float) -> Change:
    """End a job that is out of time.  Raises JobEnded."""
    _refuse_ended(record)
    deadline = record.request.deadline_at
    what = "deadline" if deadline is not None and now >= deadline else "longest time in the queue"
    error = JobError("deadline_exceeded", f"The job's {what} passed before it was done.")
    return _end(replace(record, error=error), record, JobStatus.EXPIRED, now)


def hand_over(record: JobRecord, attempt: int) -> Change:
    """Queue a job again whose owner leaves in good order, which is no death.  Raises JobEnded, StaleAttempt."""
    _refuse_stale(record, attempt)
    return _change(record, JobStatus.QUEUED, deaths=0)


def release(record: JobRecord, owner: str, now: float) -> Change | None:
    """Queue a job again whose owner died; the third time in a row it fails.  None where the owner has it no more."""
    if record.status is not JobStatus.IN_PROGRESS or record.owner != owner:
        return None
    deaths = record.deaths + 1
    if deaths < MAX_DEATHS:
        return _change(record, JobStatus.QUEUED, deaths=deaths)
    error = JobError("attempts_exhausted", f"The server ended {deaths} times in a row while it ran this job.")
    return _end(replace(record, error=error, deaths=deaths), record, JobStatus.FAILED, now)


@dataclass(frozen=True, slots=True)
class Forget:
    """The record, its key and its files have been kept long enough."""

    record: JobRecord


def overdue(record: JobRecord, now: float) -> Change | Forget | None:
    """Return what time asks for: that an ended job is forgotten, that another expires; None while nothing is due."""
    if record.due_at is None or now < record.due_at:
        return None
    return Forget(record) if record.status.has_ended else expire(record, now)


def _refuse_ended(record: JobRecord) -> None:
    if record.status.has_ended:
        raise JobEnded(f"Job {record.id} has ended: it is {record.status}.")


def _refuse_stale(record: JobRecord, attempt: int) -> None:
    _refuse_ended(record)
    if attempt != record.attempt or attempt < 1:
        raise StaleAttempt(
            f"Attempt {attempt} of job {record.id} is over: attempt {record.attempt} has taken its place."
        )


def _change(
    record: JobRecord,
    status: JobStatus,
    *,
    attempt: int | None = None,
    deaths: int | None = None,
    owner: str | None = None,
    started_at: float | None = None,
    told: StoredProgress | None = None,
) -> Change:
    """Return the change to a job that goes on; who has it stays unless it is queued or named."""
    after = replace(
        record,
        status=status,
        version=record.version + 1,
        attempt=record.attempt if attempt is None else attempt,
        deaths=record.deaths if deaths is None else deaths,
        owner=None if status is JobStatus.QUEUED else owner or record.owner,
        started_at=record.started_at if started_at is None else started_at,
        progress=record.progress if told is None else told,
    )
    return Change(record, after)


def _end(with_outcome: JobRecord, before: JobRecord, status: JobStatus, now: float) -> Change:
    ended = replace(with_outcome, status=status, version=before.version + 1, completed_at=now, owner=None)
    return Change(before, ended, rows_of(ended))
