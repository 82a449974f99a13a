"""The ids of durable jobs and the order of claims."""

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.durable_jobs.ids import claim_order, is_job_id, job_id
from tests.support.jobstore.jobs import new_job

TIMES = st.floats(0, 4e9)
CHANCE = st.binary(min_size=10, max_size=10)


@given(TIMES, CHANCE)
def test_an_id_holds_a_uuid_of_version_7(now: float, chance: bytes) -> None:
    """Other programs read its time."""
    made = job_id(now, chance)
    number = uuid.UUID(made.removeprefix("job_"))
    assert (number.version, number.variant) == (7, uuid.RFC_4122)
    assert number.int >> 80 == int(now * 1000)
    assert is_job_id(made)


@given(TIMES, TIMES, CHANCE, CHANCE)
def test_ids_sort_by_their_time(now: float, later: float, a: bytes, b: bytes) -> None:
    """So that an id is a cursor."""
    if int(now * 1000) < int(later * 1000):
        assert job_id(now, a) < job_id(later, b)


def test_an_id_takes_ten_random_bytes() -> None:
    """Fewer would be guessed."""
    with pytest.raises(ValueError, match="takes 10 random bytes, not 4"):
        job_id(1.0, b"four")


@pytest.mark.parametrize("text", ["", "job_", "job_../../etc/passwd", "job_" + "A" * 32, "job_" + "0" * 33])
def test_what_is_no_id_is_told(text: str) -> None:
    """An id becomes the name of a folder."""
    assert not is_job_id(text)


def test_jobs_are_claimed_by_priority_then_deadline_then_age_then_tenant() -> None:
    """Each decides only where what comes before it is equal."""
    in_order = [
        new_job(1, now=1009.0, priority=10),
        new_job(9, now=1009.0, deadline_at=1500.0),
        new_job(8, now=1001.0, deadline_at=1600.25),
        new_job(7, now=1002.0, deadline_at=1600.25),
        new_job(6, now=1002.0),
        new_job(5, now=1003.0, tenant="a"),
        new_job(4, now=1003.0, tenant="b"),
        new_job(3, now=900.0, priority=-10, deadline_at=1100.0),
    ]
    assert sorted(in_order[4:] + in_order[:4], key=claim_order) == in_order


def test_the_order_ends_with_the_id() -> None:
    """A store finds the job of the order that comes first."""
    job = new_job(1, tenant="a tenant\twith a tab")
    assert claim_order(job)[-36:] == job.id
