"""The text form of records: whole on the way back, and nothing else is read."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.durable_jobs.outbox import rows_of
from lego_serve.core.durable_jobs.record import (
    JobError,
    JobRecord,
    JobRequest,
    JobStatus,
    SettledTier,
    StoredProgress,
    Webhook,
)
from lego_serve.core.durable_jobs.record_json import (
    BadRecord,
    record_from_json,
    record_to_json,
    row_from_json,
    row_to_json,
)
from lego_serve.core.durable_jobs.transitions import cancel
from tests.support.jobstore.jobs import HOOK, new_job

TEXT = st.text(max_size=8)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | FLOATS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
VALUES = st.dictionaries(TEXT, JSON, max_size=3)
REQUESTS = st.builds(
    JobRequest,
    endpoint=TEXT, workflow=TEXT, model=TEXT, inputs=VALUES, seed=st.integers(0, 2**32 - 1), tenant=TEXT,
    priority=st.integers(-10, 10), deadline_at=st.none() | FLOATS, metadata=st.dictionaries(TEXT, TEXT, max_size=3),
    webhook=st.none() | st.builds(Webhook, TEXT, st.tuples(TEXT) | st.just(())), key=st.none() | TEXT,
    fingerprint=st.none() | TEXT, traceparent=st.none() | TEXT,
)  # fmt: skip
RECORDS = st.builds(
    JobRecord,
    id=TEXT, request=REQUESTS, created_at=FLOATS, queued_until=FLOATS, keep_s=FLOATS,
    status=st.sampled_from(list(JobStatus)), version=st.integers(1), attempt=st.integers(0), deaths=st.integers(0),
    owner=st.none() | TEXT, started_at=st.none() | FLOATS, completed_at=st.none() | FLOATS,
    progress=st.builds(StoredProgress, *[st.integers()] * 4, eta_s=st.none() | FLOATS),
    result=st.none() | VALUES, error=st.none() | st.builds(JobError, TEXT, TEXT, TEXT, st.none() | TEXT),
    tier=st.none() | st.builds(SettledTier, TEXT, st.none() | TEXT),
)  # fmt: skip


@given(RECORDS)
def test_a_record_comes_back_whole(record: JobRecord) -> None:
    """Every field, of its own type."""
    back = record_from_json(record_to_json(record))
    assert back == record
    assert type(back.status) is JobStatus


def test_a_record_of_an_older_version_has_no_tier() -> None:
    """And one without a tier is written as that version wrote it, so that its gateways read it too."""
    job = new_job(1)
    text = record_to_json(job)
    assert "tier" not in json.loads(text)
    assert record_from_json(text) == job
    settled = replace(job, tier=SettledTier("fast", "exact"))
    assert json.loads(record_to_json(settled))["tier"] == {"name": "fast", "lowered_from": "exact"}


def test_a_message_comes_back_whole() -> None:
    """An outbox row is stored as its record is."""
    (row,) = rows_of(cancel(new_job(1, webhook=HOOK), 1010.0).record)
    assert row_from_json(row_to_json(row)) == row


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"format": 2}, "has format 2; this version reads format 1"),
        ({"colour": "red"}, "JobRecord has fields too many or too few: colour"),
        ({"attempt": "1"}, "JobRecord.attempt is a str"),
        ({"attempt": True}, "JobRecord.attempt is a bool"),
        ({"status": "paused"}, "JobRecord.status is a str"),
        ({"error": {"code": "x"}}, "JobRecord.error has fields too many or too few: message, param, status, type"),
        ({"result": []}, "JobRecord.result is a list"),
    ],
)
def test_what_is_no_record_of_this_version_is_refused(change: dict[str, object], complaint: str) -> None:
    """The message names the field, and nothing is guessed."""
    text = json.dumps(json.loads(record_to_json(new_job(1))) | change)
    with pytest.raises(BadRecord, match=complaint):
        record_from_json(text)


@pytest.mark.parametrize("text", ["", "{", "[]", "1", b"\xff"])
def test_a_damaged_text_is_refused(text: str | bytes) -> None:
    """A half-written record is an error, not a job."""
    with pytest.raises(BadRecord):
        record_from_json(text)


@pytest.mark.parametrize("value", [float("nan"), b"bytes", object()])
def test_what_json_cannot_hold_is_refused_when_it_is_written(value: object) -> None:
    """Not when it is read, which may be in another process."""
    job = new_job(1)
    with pytest.raises(BadRecord, match="that JSON cannot hold"):
        record_to_json(replace(job, request=replace(job.request, inputs={"odd": value})))
