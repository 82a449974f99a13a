"""Claims take tenants by turns, in every store."""

from pathlib import Path

import apsw
import pytest

from lego_serve.core.durable_jobs.ids import claim_order
from lego_serve.core.durable_jobs.record import JobRecord
from lego_serve.core.durable_jobs.store import Held
from lego_serve.core.durable_jobs.transitions import complete
from lego_serve.jobstore.redis_store import PREFIX
from lego_serve.jobstore.sqlite import SqliteJobStore
from lego_serve.jobstore.sqlite_schema import SCHEMA
from tests.support.jobstore.jobs import new_job
from tests.support.jobstore.stage import LEASE_S, Stage


async def flood(stage: Stage, count: int, tenant: str = "a", **more: int) -> None:
    """Have a tenant queue many jobs."""
    for number in range(count):
        await stage.store.put(new_job(1000 * ord(tenant) + number, tenant=tenant, **more))


async def claim_one(stage: Stage, **weights: float) -> JobRecord:
    """Claim the next job."""
    (job,) = await stage.store.claim("gateway", 1, weights)
    return job


async def test_a_tenant_that_asks_for_the_highest_priority_keeps_nobody_waiting(stage: Stage) -> None:
    """With a hundred jobs before them, another's three get every other place, and the rest are the first tenant's."""
    await flood(stage, 100, priority=10)
    for number in range(3):
        await stage.store.put(new_job(number, tenant="b", priority=-10))
    claimed = await stage.store.claim("gateway", 8)
    assert [job.request.tenant for job in claimed] == list("abababaa")


async def test_with_one_place_tenants_take_turns(stage: Stage) -> None:
    """Each job ends before the next is claimed, so that nobody has any running."""
    await flood(stage, 9, priority=10)
    await flood(stage, 3, "b")
    order = ""
    for _ in range(8):
        job = await claim_one(stage)
        order += job.request.tenant
        assert await stage.store.write(complete(job, job.attempt, {}, stage.now))
    assert order == "abababaa"


async def test_whoever_has_fewer_jobs_running_is_next(stage: Stage) -> None:
    """One whose jobs take long has no more places for that."""
    await flood(stage, 9)
    assert len(await stage.store.claim("gateway", 3)) == 3
    await flood(stage, 9, "b")
    assert [job.request.tenant for job in await stage.store.claim("gateway", 4)] == list("bbba")


async def test_a_heavier_tenant_has_more_places(stage: Stage) -> None:
    """Three to one."""
    await flood(stage, 20)
    await flood(stage, 20, "b")
    claimed = await stage.store.claim("gateway", 8, {"b": 3.0})
    assert [job.request.tenant for job in claimed].count("b") == 6


async def test_a_tenant_alone_takes_all_places_in_its_own_order(stage: Stage) -> None:
    """Priority, then deadline, then age."""
    jobs = [new_job(1), new_job(2, priority=5), new_job(3, deadline_at=1500.0), new_job(4, now=999.0)]
    for job in jobs:
        await stage.store.put(job)
    assert [await stage.store.position(job) for job in jobs] == [3, 0, 1, 2]
    assert [job.id for job in await stage.store.claim("gateway", 9)] == [jobs[each].id for each in (1, 2, 3, 0)]


async def test_a_position_counts_ones_own_jobs(stage: Stage) -> None:
    """What others have queued says nothing of when a job is claimed."""
    await flood(stage, 5, priority=10)
    job = new_job(9, tenant="b")
    await stage.store.put(job)
    assert await stage.store.position(job) == 0


@pytest.mark.parametrize("texts", ["sqlite"], indirect=True)
async def test_a_database_of_an_earlier_version_is_taken_over(texts: Stage, tmp_path: Path) -> None:
    """Its jobs wait, run and are counted as before, and so are the bytes of its results."""
    await flood(texts, 3)
    await flood(texts, 2, "b")
    job = await claim_one(texts)
    images = {"images": [{"bytes": 70}, {"bytes": 7}]}
    await texts.store.write(complete(job, job.attempt, images, texts.now))
    await claim_one(texts)
    await texts.store.close()
    path = tmp_path / "jobs.db"
    with apsw.Connection(str(path)) as db:  # as it was: no counts, and an index over all tenants
        for kind, name in db.execute(
            "SELECT type, name FROM sqlite_schema WHERE type='trigger' OR name IN ('tenants', 'sizes', 'jobs_by_turn')"
        ).fetchall():
            db.execute(f"DROP {kind} IF EXISTS {name}")
        db.execute("UPDATE jobs SET record='damaged' WHERE id=(SELECT max(id) FROM jobs WHERE tenant='b')")
        db.pragma("user_version", 0)
        db.execute("CREATE INDEX jobs_queued ON jobs (claim_order) WHERE claim_order IS NOT NULL")
    texts.store = SqliteJobStore(path, lambda: texts.now, LEASE_S)
    assert await texts.store.held("a") == Held(2, 77)
    assert await texts.store.held("b") == Held(2, 0)
    assert (await texts.store.counts()).queued == 3
    assert {job.request.tenant for job in await texts.store.claim("gateway", 9)} == {"a"}
    assert (await texts.store.counts()).unreadable == 1


def test_the_tables_of_the_first_version_stay() -> None:
    """A server that goes back to it finds the columns that it writes."""
    with apsw.Connection(":memory:") as db:
        db.execute(SCHEMA)
        columns = [str(name) for (name,) in db.execute("SELECT name FROM pragma_table_info('jobs')").fetchall()]
    assert columns == ["id", "tenant", "key", "status", "model", "version", "owner", "claim_order", "due_at", "record"]


@pytest.mark.parametrize("texts", ["redis"], indirect=True)
async def test_jobs_that_a_gateway_of_an_earlier_version_queues_are_claimed(texts: Stage) -> None:
    """It adds them to one set of all tenants, and knows no other when it ends one."""
    jobs = [new_job(number, tenant=tenant) for number, tenant in enumerate("aab")]
    for job in jobs:
        await texts.store.put(job)
    assert texts.client is not None
    for job in jobs:
        await texts.client.zrem(f"{PREFIX}ready:{job.request.tenant}", claim_order(job))
        await texts.client.zadd(f"{PREFIX}ready", {claim_order(job): 0})
    await texts.client.delete(f"{PREFIX}waiting")
    assert (await texts.store.counts()).queued == 3
    assert (await claim_one(texts)).id == jobs[0].id
    # The earlier version cancels the second one, which it would take from its own set alone.
    await texts.client.hset(f"{PREFIX}job:{jobs[1].id}", mapping={"status": "cancelled", "order": ""})  # type: ignore[misc]
    await texts.client.srem(f"{PREFIX}open:a", jobs[1].id)  # type: ignore[misc]
    assert [job.id for job in await texts.store.claim("gateway", 9)] == [jobs[2].id]
