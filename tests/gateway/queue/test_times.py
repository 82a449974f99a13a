"""When queued jobs are expected to end, over a store in memory and by a clock that stands where a test puts it."""

from dataclasses import replace

import pytest

from lego_serve.core.durable_jobs.record import JobRecord, JobRequest, JobStatus, StoredProgress
from lego_serve.core.durable_jobs.transitions import claim, complete, progress
from lego_serve.gateway.queue.times import QueueTimes, Standing
from lego_serve.jobstore.memory import MemoryJobStore
from lego_serve.workflow_files import built_in_workflows

WORKFLOWS = built_in_workflows()
NOW = 1000.0


def record(number: int, tenant: str = "shop", **body: object) -> JobRecord:
    """A queued job, the more urgent the smaller its number."""
    inputs = {"body": {"prompt": "a"} | body, "files": {}}
    request = JobRequest("/v1/images/generations", "lego-tiny", "lego-tiny", inputs, seed=3, tenant=tenant)
    return JobRecord(f"job_{tenant}{number:04d}", request, created_at=NOW + number, queued_until=9e9, keep_s=60.0)


def ended(took_s: float, **body: object) -> JobRecord:
    """A job that had its place for so long."""
    running = claim(record(9000, **body), "a gateway", NOW).record
    return complete(running, 1, {}, NOW + took_s).record


async def stored(*records: JobRecord) -> MemoryJobStore:
    """A store of these jobs."""
    store = MemoryJobStore(lambda: NOW, 60.0)
    for each in records:
        await store.put(each)
    return store


def times_of(store: MemoryJobStore, places: int = 2, now: float = NOW) -> QueueTimes:
    """The queue as a gateway of so many places sees it."""
    return QueueTimes(store, places, lambda: WORKFLOWS, lambda: now)


def running(number: int, tenant: str = "shop") -> JobRecord:
    """A job that has a place, since a moment ago."""
    return claim(record(number, tenant), "a gateway", NOW).record


async def test_nothing_is_expected_before_a_job_has_ended() -> None:
    """The position is known all the same."""
    jobs = [record(number) for number in range(2)]
    times = times_of(await stored(*jobs))
    assert [await times.standing(each) for each in jobs] == [Standing(0, None), Standing(1, None)]
    assert await times.etas_s("shop") == {}


async def test_jobs_of_a_queue_end_one_after_the_other() -> None:
    """Both places are taken for 10 s each by jobs of which nothing is known: one is free in 5 s, one in 10 s."""
    jobs = [record(number) for number in range(3)]
    times = times_of(await stored(running(100), running(101), *jobs))
    times.learn(ended(10.0))
    standings = [await times.standing(each) for each in jobs]
    assert standings == [Standing(0, 15.0), Standing(1, 20.0), Standing(2, 25.0)]
    assert await times.etas_s("shop") == {job.id: each.eta_s for job, each in zip(jobs, standings, strict=True)}


async def test_what_is_asked_for_counts() -> None:
    """Four images take four times as long as one, here and before others."""
    jobs = [record(0, n=4), record(1, n=1)]
    times = times_of(await stored(*jobs), places=1)
    times.learn(ended(10.0, n=1))
    assert [await times.standing(each) for each in jobs] == [Standing(0, 40.0), Standing(1, 50.0)]


async def test_what_all_gateways_run_says_how_many_places_there_are() -> None:
    """Four run where this gateway has two places: one is free every 2.5 s."""
    job = record(0)
    times = times_of(await stored(*(running(100 + number) for number in range(4)), job))
    times.learn(ended(10.0))
    assert await times.standing(job) == Standing(0, 12.5)


async def test_other_tenants_have_their_turns() -> None:
    """However many theirs are, one comes before each of one's own."""
    jobs, theirs = [record(number) for number in range(2)], [record(number, "press") for number in range(50)]
    times = times_of(await stored(*jobs, *theirs), places=1)
    times.learn(ended(10.0))
    assert [(await times.standing(each)).eta_s for each in jobs] == [20.0, 40.0]


async def test_more_than_a_page_of_jobs_are_counted_by_the_mean() -> None:
    """Of 300 the last is behind 299, and no job of the same tenant counts as another's."""
    jobs = [record(number) for number in range(300)]
    times = times_of(await stored(*jobs), places=1)
    times.learn(ended(10.0))
    assert await times.standing(jobs[-1]) == Standing(299, 3000.0)


async def test_a_job_that_has_just_its_place_is_expected_as_its_kind_is_until_its_lanes_tell_more() -> None:
    """Less the time since; and nothing more once that is over."""
    job = running(0)
    store = await stored(job)
    for passed_s, eta_s in ((4.0, 6.0), (30.0, 0.0)):
        times = times_of(store, now=NOW + passed_s)
        assert await times.standing(job) == Standing(None, None)
        times.learn(ended(10.0))
        assert await times.standing(job) == Standing(None, eta_s)
    told = progress(job, 1, StoredProgress(eta_s=7.5)).record
    assert await times.standing(told) == Standing(None, 7.5)


@pytest.mark.parametrize(
    "teaches_nothing",
    [
        replace(ended(10.0), status=JobStatus.FAILED),
        replace(ended(10.0), status=JobStatus.CANCELLED),
        replace(ended(10.0), attempt=2),
        ended(0.0),
    ],
)
async def test_only_a_job_that_ended_well_in_one_attempt_teaches_anything(teaches_nothing: JobRecord) -> None:
    """Others had their places for another time than such a job takes."""
    job = record(0)
    times = times_of(await stored(job))
    times.learn(teaches_nothing)
    assert await times.standing(job) == Standing(0, None)


async def test_an_ended_job_stands_nowhere() -> None:
    """Neither place nor expectation."""
    times = times_of(await stored())
    times.learn(ended(10.0))
    assert await times.standing(ended(10.0)) == Standing()


async def test_jobs_of_another_tier_have_a_pace_of_their_own() -> None:
    """As soon as one of them has ended; before that they are taken for what is known."""
    fast = record(0, tier="fast")
    times = times_of(await stored(fast), places=1)
    times.learn(ended(10.0))
    assert await times.standing(fast) == Standing(0, 10.0)
    times.learn(ended(2.0, tier="fast"))
    assert await times.standing(fast) == Standing(0, 2.0)
