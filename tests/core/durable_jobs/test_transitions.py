"""The life of a durable job: which changes there are, which are refused, and what each end brings along."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.durable_jobs.record import JobError, JobRecord, JobStatus, SettledTier, StoredProgress, Webhook
from lego_serve.core.durable_jobs.transitions import (
    MAX_DEATHS,
    Change,
    Forget,
    Retention,
    cancel,
    claim,
    complete,
    expire,
    fail,
    hand_over,
    overdue,
    progress,
    release,
    settle,
)
from lego_serve.errors import JobEnded, RequestError, StaleAttempt
from tests.support.jobstore.jobs import HOOK, new_job

ERROR = JobError("node_failed", "A node failed.")
ENDS: dict[str, Callable[[JobRecord], Change]] = {
    "completed": lambda job: complete(job, job.attempt, {"data": []}, 1010.0),
    "failed": lambda job: fail(job, job.attempt, ERROR, 1010.0),
    "cancelled": lambda job: cancel(job, 1010.0),
    "expired": lambda job: expire(job, 1010.0),
}


def running(**changes: object) -> JobRecord:
    """A job in its first attempt."""
    return claim(new_job(1, **changes), "a", 1001.0).record


def died(job: JobRecord, owner: str = "a") -> JobRecord:
    """The job after its owner's death."""
    change = release(job, owner, 1005.0)
    assert change is not None
    return change.record


@pytest.mark.parametrize(
    ("deadline_at", "now", "what"),
    [(None, 99_999.0, "longest time in the queue"), (1005.0, 1006.0, "deadline"), (99_999.0, 90_000.0, "longest time")],
)
def test_a_job_that_expires_says_what_it_ran_out_of(deadline_at: float | None, now: float, what: str) -> None:
    """One may have waited too long for the store before its own deadline."""
    error = expire(new_job(1, deadline_at=deadline_at), now).record.error
    assert error is not None
    assert f"The job's {what}" in error.message


def test_a_claim_begins_an_attempt() -> None:
    """The owner is noted, the attempt counted, and the first start kept over later ones."""
    first = running()
    assert (first.status, first.attempt, first.owner, first.started_at) == ("in_progress", 1, "a", 1001.0)
    second = claim(died(first), "b", 1006.0).record
    assert (second.attempt, second.owner, second.started_at) == (2, "b", 1001.0)


def test_a_job_that_runs_is_not_claimed() -> None:
    """Two owners of one attempt would both be right."""
    with pytest.raises(StaleAttempt, match="is being run in attempt 1"):
        claim(running(), "b", 1002.0)


@pytest.mark.parametrize("status", ENDS)
def test_an_ended_job_never_changes(status: str) -> None:
    """Every transition is refused, or says that there is nothing to do."""
    ended = ENDS[status](running()).record
    assert (ended.status, ended.completed_at, ended.owner) == (status, 1010.0, None)
    later: list[Callable[[JobRecord], object]] = [
        *ENDS.values(),
        lambda job: claim(job, "b", 1011.0),
        lambda job: progress(job, 1, StoredProgress(10)),
        lambda job: hand_over(job, 1),
    ]
    for change in later:
        with pytest.raises(JobEnded, match=f"it is {status}"):
            change(ended)
    assert release(ended, "a", 1011.0) is None


def test_a_write_for_an_earlier_attempt_is_refused() -> None:
    """An owner that was given up and wakes up changes nothing of what another has begun."""
    second = claim(died(running()), "b", 1006.0).record
    for change in (
        lambda: progress(second, 1, StoredProgress(50)),
        lambda: complete(second, 1, {}, 1007.0),
        lambda: fail(second, 1, ERROR, 1007.0),
        lambda: hand_over(second, 1),
    ):
        with pytest.raises(StaleAttempt, match="attempt 2 has taken its place"):
            change()
    assert release(second, "a", 1007.0) is None


def test_the_tier_of_the_first_attempt_is_that_of_all() -> None:
    """Until it is written there is none, and an attempt that is over settles nothing."""
    first, second = SettledTier("fast", "exact"), SettledTier("exact")
    settled = settle(running(), 1, first).record
    assert (settled.tier, settled.version) == (first, running().version + 1)
    again = claim(died(settled), "b", 1006.0).record
    assert settle(again, 2, second).record.tier == first
    with pytest.raises(StaleAttempt):
        settle(again, 1, second)


def test_work_that_is_done_counts_while_nobody_has_begun_it_again() -> None:
    """After an outage an owner may end a job that was taken from it, but no longer tell of its progress."""
    queued = died(running())
    assert complete(queued, 1, {"data": []}, 1007.0).record.status is JobStatus.COMPLETED
    with pytest.raises(StaleAttempt, match="whose owner was given up"):
        progress(queued, 1, StoredProgress(50))


def test_a_job_that_was_never_claimed_is_ended_by_no_attempt() -> None:
    """Attempt 0 is nobody's."""
    with pytest.raises(StaleAttempt):
        complete(new_job(1), 0, {}, 1002.0)


def test_the_third_death_in_a_row_is_the_last() -> None:
    """A request that takes its gateways down does not go round for ever."""
    job = new_job(1, webhook=HOOK)
    for death in range(1, MAX_DEATHS):
        job = died(claim(job, "a", 1001.0).record)
        assert (job.status, job.deaths, job.attempt) == ("queued", death, death)
    change = release(claim(job, "a", 1001.0).record, "a", 1005.0)
    assert change is not None
    assert change.record.status is JobStatus.FAILED
    assert change.record.error is not None
    assert change.record.error.code == "attempts_exhausted"
    assert [row.event for row in change.outbox] == ["job.failed"]


def test_a_hand_over_is_no_death() -> None:
    """Owners that leave in good order may be any number, and end a row of deaths."""
    job = died(claim(died(running()), "a", 1006.0).record)
    job = hand_over(claim(job, "b", 1007.0).record, 3).record
    assert (job.status, job.deaths, job.attempt, job.owner) == ("queued", 0, 3, None)


def test_the_percentage_never_falls() -> None:
    """A later attempt repeats steps; who watches sees the job stand still, not go back."""
    job = progress(running(), 1, StoredProgress(40, 8, 20)).record
    job = progress(job, 1, StoredProgress(25, 5, 20)).record
    assert (job.progress.percent, job.progress.step) == (40, 5)
    assert progress(job, 1, StoredProgress(900, 20, 20)).record.progress.percent == 100


@pytest.mark.parametrize(("events", "told"), [((), True), (("job.failed",), False), (("job.completed",), True)])
def test_an_end_brings_its_message_along(events: tuple[str, ...], told: bool) -> None:
    """One message, under an id that is the same whoever writes it, unless the caller does not want to know."""
    job = running(webhook=replace(HOOK, events=events))
    rows = complete(job, 1, {}, 1010.0).outbox
    expected = [(f"msg_{job.id}_completed", "job.completed", 1010.0)] if told else []
    assert [(row.id, row.event, row.due_at) for row in rows] == expected


def test_without_a_webhook_nothing_is_told() -> None:
    """The outbox holds only what somebody waits for."""
    assert cancel(running(), 1010.0).outbox == ()


def test_time_ends_jobs_and_forgets_them() -> None:
    """A job expires at its deadline, and at the latest when it waited too long; an ended one is kept for its time."""
    retention = Retention(queued_s=50.0, ended_s=10.0)
    assert new_job(1, retention=retention).due_at == 1050.0
    job = new_job(1, retention=retention, deadline_at=1030.0)
    assert overdue(job, 1029.0) is None
    change = overdue(job, 1030.0)
    assert isinstance(change, Change)
    assert change.record.status is JobStatus.EXPIRED
    assert overdue(change.record, 1039.0) is None
    assert overdue(change.record, 1040.0) == Forget(change.record)


def test_a_job_that_runs_without_a_deadline_is_never_due() -> None:
    """How long it may wait no longer matters once it was begun."""
    assert running().due_at is None
    assert running(deadline_at=1030.0).due_at == 1030.0


def test_a_priority_that_does_not_exist_is_refused() -> None:
    """The message says which there are."""
    with pytest.raises(RequestError, match="is 11; it must be from -10 to 10"):
        new_job(1, priority=11)


@given(st.lists(st.sampled_from(["claim", "die", "hand over", "progress", "cancel", "complete"]), max_size=30))
def test_versions_rise_by_one_and_attempts_never_fall(steps: list[str]) -> None:
    """Whatever happens, the fence and the order of events are right."""
    job = new_job(1, webhook=Webhook("https://hooks.example"))
    for step in steps:
        try:
            change = {
                "claim": lambda j: claim(j, "a", 1001.0),
                "die": lambda j: release(j, "a", 1001.0),
                "hand over": lambda j: hand_over(j, j.attempt),
                "progress": lambda j: progress(j, j.attempt, StoredProgress(5)),
                "cancel": lambda j: cancel(j, 1001.0),
                "complete": lambda j: complete(j, j.attempt, {}, 1001.0),
            }[step](job)
        except (JobEnded, StaleAttempt):
            continue
        if change is None:
            continue
        after = change.record
        assert change.before is job
        assert after.version == job.version + 1
        assert after.attempt - job.attempt == (step == "claim")
        assert (after.owner is not None) == (after.status is JobStatus.IN_PROGRESS)
        assert bool(change.outbox) == after.status.has_ended
        job = after
