"""Gateways that are killed, or stand still for longer than their lease: no job is lost, and none ends twice."""

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import apsw
import pytest

from lego_serve.core.durable_jobs.ids import RANDOM_BYTES, job_id
from lego_serve.core.durable_jobs.record import JobRecord, JobStatus
from lego_serve.core.durable_jobs.store import MAX_PAGE, JobQuery, JobStore
from lego_serve.core.durable_jobs.transitions import complete, submit
from lego_serve.jobstore.blobs.folder import FolderBlobs
from lego_serve.jobstore.files import JobFiles
from lego_serve.jobstore.redis_client import connect
from lego_serve.jobstore.sweeping import change, release, sweep
from tests.support.jobstore.claimer import LEASE_S, Claimer, open_store
from tests.support.jobstore.jobs import HOOK, request
from tests.support.jobstore.redis_server import RedisServer

CLAIMERS = 4
STOPPED_S = 1.6 * LEASE_S
STANDS_STILL = 0.25  # of the faults; the others are kills
SEEN_BY_ITS_SUPERVISOR = 0.5  # of the kills; the others are found when the lease lapses
ENDS_S = 180.0
FOR_EVER_S = 3600.0
PATIENCE_S = 60.0  # the test's own; the claimers have that of gateways


@pytest.fixture(params=["sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where each store that outlives a process is."""
    if request.param == "sqlite":
        return str(tmp_path / "jobs.db")
    server: RedisServer = request.getfixturevalue("redis_server")
    asyncio.run(_emptied(server.url))
    return server.url


async def test_no_kill_loses_a_job_or_ends_it_twice(url: str, tmp_path: Path) -> None:
    """Thirty faults."""
    await _survive(url, tmp_path, jobs=250, faults=30)


@pytest.mark.long
async def test_two_hundred_kills_lose_no_job(url: str, tmp_path: Path) -> None:
    """Nor end one twice."""
    await _survive(url, tmp_path, jobs=1500, faults=200)


async def test_who_stood_still_beyond_its_lease_is_refused(url: str, tmp_path: Path) -> None:
    """Its job was claimed again and has ended; what it writes afterwards changes nothing."""
    store = open_store(url, PATIENCE_S, FOR_EVER_S)  # what is claimed here never lapses
    (submitted,) = await _submit(store, 1, over_s=0)
    claimer = Claimer(url, tmp_path, let=tmp_path / "let")
    job = await _until(store, submitted, lambda held: held.progress.percent > 0)
    claimer.stop()
    await _until(store, submitted, lambda held: held.status is JobStatus.QUEUED, meanwhile=sweep)
    (again,) = await store.claim("another", 1)
    assert again.attempt == job.attempt + 1
    ended = await change(store, again, lambda held: complete(held, again.attempt, {"data": []}, time.time()))
    claimer.wake()
    (tmp_path / "let").touch()
    log = tmp_path / f"{claimer.owner}.log"
    await _until(store, submitted, lambda _held: log.read_text() == f"refused {job.id} {job.attempt}\n")
    claimer.kill()
    assert await store.get(submitted) == ended
    assert len(await store.take_outbox(9, 60.0)) == 1
    await store.close()


async def test_who_stood_still_does_not_end_the_attempt_that_follows(url: str, tmp_path: Path) -> None:
    """It wakes while another runs the job, which has not ended: only the number of its attempt says that it is late."""
    store = open_store(url, PATIENCE_S, FOR_EVER_S)  # what is claimed here never lapses
    (submitted,) = await _submit(store, 1, over_s=0)
    claimer = Claimer(url, tmp_path, let=tmp_path / "let")
    job = await _until(store, submitted, lambda held: held.progress.percent > 0)
    claimer.stop()
    await _until(store, submitted, lambda held: held.status is JobStatus.QUEUED, meanwhile=sweep)
    (again,) = await store.claim("another", 1)
    claimer.wake()
    (tmp_path / "let").touch()
    log = tmp_path / f"{claimer.owner}.log"
    await _until(store, submitted, lambda _held: log.read_text() != "")
    claimer.kill()
    assert log.read_text() == f"refused {job.id} {job.attempt}\n"
    assert await store.get(submitted) == again
    assert list(await store.take_outbox(9, 60.0)) == []
    ended = await change(store, again, lambda held: complete(held, again.attempt, {"data": []}, time.time()))
    assert ended.status is JobStatus.COMPLETED
    await store.close()


async def _until(
    store: JobStore,
    job_id: str,
    is_so: Callable[[JobRecord], bool],
    meanwhile: Callable[[JobStore], Awaitable[object]] | None = None,
) -> JobRecord:
    """Wait until something is so of a job."""
    until = time.monotonic() + ENDS_S
    while True:
        job = await store.get(job_id)
        assert job is not None
        if is_so(job):
            return job
        assert time.monotonic() < until, job
        if meanwhile is not None:
            await meanwhile(store)
        await asyncio.sleep(0.05)


async def _survive(url: str, folder: Path, jobs: int, faults: int) -> None:
    """Submit jobs, do harm to those who make them, and look at what there is when all have ended."""
    store = open_store(url, PATIENCE_S)
    chance = random.Random(faults)
    claimers = [Claimer(url, folder) for _ in range(CLAIMERS)]
    feeding = asyncio.ensure_future(_submit(store, jobs, over_s=0.08 * faults))
    try:
        for _ in range(faults):
            await asyncio.sleep(chance.uniform(0.02, 0.15))
            await _harm(store, url, folder, claimers, chance)
        submitted = await feeding
        records = await _when_all_ended(store, jobs)
    finally:
        for claimer in claimers:
            claimer.kill()
    assert sorted(record.id for record in records) == submitted
    await _check(store, folder, records)
    await store.close()
    if not url.startswith("unix:"):
        assert apsw.Connection(url).pragma("integrity_check") == "ok"


async def _submit(store: JobStore, jobs: int, over_s: float) -> list[str]:
    """Submit jobs while the faults happen; return the ids that were acknowledged."""
    acknowledged = []
    for _ in range(jobs):
        job = submit(job_id(time.time(), os.urandom(RANDOM_BYTES)), request(webhook=HOOK), time.time())
        acknowledged.append((await store.put(job)).id)
        await asyncio.sleep(over_s / jobs)
    return sorted(acknowledged)


async def _harm(store: JobStore, url: str, folder: Path, claimers: list[Claimer], chance: random.Random) -> None:
    place = chance.randrange(CLAIMERS)
    claimer = claimers[place]
    if chance.random() < STANDS_STILL:
        claimer.stop()
        await asyncio.sleep(STOPPED_S)
        claimer.wake()
        return
    claimer.kill()
    if chance.random() < SEEN_BY_ITS_SUPERVISOR:
        await release(store, claimer.owner)
    claimers[place] = Claimer(url, folder)


async def _when_all_ended(store: JobStore, jobs: int) -> list[JobRecord]:
    until = time.monotonic() + ENDS_S
    while True:
        records = await _all(store)
        if len(records) == jobs and all(record.status.has_ended for record in records):
            return records
        assert time.monotonic() < until, Counter(record.status for record in records)
        await asyncio.sleep(0.1)


async def _all(store: JobStore) -> list[JobRecord]:
    records: list[JobRecord] = []
    while True:
        after = records[-1].id if records else None
        page = await store.page(JobQuery("default", limit=MAX_PAGE, after=after, ascending=True))
        records += page.jobs
        if not page.has_more:
            return records


async def _check(store: JobStore, folder: Path, records: list[JobRecord]) -> None:
    """Each end was written once, by the attempt that the record names, with its image and its message."""
    files = JobFiles(FolderBlobs(folder / "jobs"))
    lines = [line.split() for log in folder.glob("*.log") for line in log.read_text().splitlines()]
    ended = Counter(job for word, job, _ in lines if word == "ended")
    attempts = {(job, int(attempt)) for word, job, attempt in lines if word == "ended"}
    assert max(ended.values()) == 1
    for record in records:
        if record.status is JobStatus.FAILED:
            assert record.deaths == 3
            continue
        assert record.status is JobStatus.COMPLETED
        assert ended[record.id] == 0 or (record.id, record.attempt) in attempts
        assert files.read_result(record.id, record.attempt, 0) == record.id.encode()
    messages = [row.job_id for row in await store.take_outbox(10 * len(records), 60.0)]
    assert sorted(messages) == sorted(record.id for record in records)
    assert sum(record.status is JobStatus.FAILED for record in records) <= len(records) / 50


async def _emptied(url: str) -> None:
    client = connect(url, PATIENCE_S)
    await client.flushall()
    await client.aclose()
