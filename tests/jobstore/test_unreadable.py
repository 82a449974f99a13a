"""A record that cannot be read is set aside, and holds up no other."""

import logging
from dataclasses import replace

import pytest

from lego_serve.core.durable_jobs.record_json import BadRecord
from lego_serve.core.durable_jobs.store import Held, JobQuery, JobSize
from lego_serve.core.durable_jobs.transitions import cancel, complete
from lego_serve.jobstore.redis_store import PREFIX
from lego_serve.jobstore.sweeping import release, sweep
from tests.support.jobstore.jobs import HOOK, new_job
from tests.support.jobstore.stage import Stage

LATER = '{"format":2,"id":"job"}'
DAMAGE = [LATER, "{", "[" * 100_000, b"\xff\xfe", '{"format":1}']


def told(caplog: pytest.LogCaptureFixture, job_id: str) -> list[str]:
    """What is logged of a job that was set aside."""
    return [line.message for line in caplog.records if "set aside" in line.message and job_id in line.message]


@pytest.mark.parametrize(
    "damage", DAMAGE, ids=["of a later format", "cut off", "too deep", "no text", "with no fields"]
)
async def test_a_damaged_job_that_waits_holds_up_no_other(
    texts: Stage, damage: str | bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """The next is claimed in its place; it is logged once, counted, and its text is left as it is."""
    first, second, third = (new_job(number) for number in range(3))
    for job in (first, second, third):
        await texts.store.put(job, JobSize(passing=8))
    await texts.damage(first.id, damage)
    with caplog.at_level(logging.ERROR):
        claimed = await texts.store.claim("gateway", 2)
        assert [job.id for job in claimed] == [second.id, third.id]
    assert len(told(caplog, first.id)) == 1
    counts = await texts.store.counts()
    assert (counts.queued, counts.in_progress, counts.unreadable) == (0, 2, 1)
    assert await texts.store.held("default") == Held(2, 16)
    with pytest.raises(BadRecord):
        await texts.store.get(first.id)
    page = await texts.store.page(JobQuery("default"))
    assert [job.id for job in page.jobs] == [third.id, second.id]
    if isinstance(damage, str):
        assert await texts.text_of(first.id) == damage


async def test_a_damaged_job_of_a_dead_gateway_is_set_aside_and_the_others_go_on(texts: Stage) -> None:
    """Its lease ends, and nothing is left that it owns."""
    jobs = [new_job(number) for number in range(3)]
    for job in jobs:
        await texts.store.put(job)
    await texts.store.claim("gateway", 3)
    await texts.damage(jobs[1].id, LATER)
    assert [job.id for job in await release(texts.store, "gateway")] == [jobs[0].id, jobs[2].id]
    assert list(await texts.store.owned_ids("gateway")) == []
    assert (await texts.store.counts()).unreadable == 1
    assert [job.id for job in await texts.store.claim("another", 3)] == [jobs[0].id, jobs[2].id]


async def test_a_damaged_job_that_is_due_holds_up_no_sweep(texts: Stage) -> None:
    """Those whose time has come with it expire."""
    jobs = [new_job(number, deadline_at=1010.0) for number in range(3)]
    for job in jobs:
        await texts.store.put(job)
    await texts.damage(jobs[0].id, "no JSON")
    await texts.wait(20)
    assert {job.id for job in (await sweep(texts.store)).expired} == {jobs[1].id, jobs[2].id}
    await texts.wait(1e6)
    assert {job.id for job in (await sweep(texts.store)).forgotten} == {jobs[1].id, jobs[2].id}


async def test_a_damaged_job_in_a_list_is_left_out(texts: Stage) -> None:
    """Page by page, whether or not it was set aside before."""
    jobs = [new_job(number) for number in range(5)]
    for job in jobs:
        await texts.store.put(job)
    await texts.store.write(cancel(jobs[3], texts.now))
    await texts.damage(jobs[3].id, "no JSON")
    first = await texts.store.page(JobQuery("default", limit=2))
    assert first.jobs[0].id == jobs[4].id
    rest = await texts.store.page(JobQuery("default", limit=9, after=first.jobs[-1].id))
    assert [job.id for job in (*first.jobs, *rest.jobs)] == [jobs[each].id for each in (4, 2, 1, 0)]


async def test_a_key_of_a_damaged_job_is_not_carried_out_again(texts: Stage) -> None:
    """Nobody can say whether it was; the error is the server's."""
    job = new_job(1, key="key")
    await texts.store.put(job)
    await texts.damage(job.id, LATER)
    await texts.store.claim("gateway", 1)
    with pytest.raises(BadRecord, match="format 2"):
        await texts.store.put(new_job(2, key="key"))
    with pytest.raises(BadRecord):
        await texts.store.find("default", "key")


async def test_who_runs_a_job_whose_record_was_damaged_meanwhile_ends_it_all_the_same(texts: Stage) -> None:
    """What it writes takes the damaged record's place."""
    await texts.store.put(new_job(1))
    (job,) = await texts.store.claim("gateway", 1)
    await texts.damage(job.id, "no JSON")
    assert await texts.store.owned("gateway") == []
    assert (await texts.store.counts()).unreadable == 1
    ended = complete(job, 1, {"images": [{"bytes": 5}]}, texts.now)
    assert await texts.store.write(ended)
    assert await texts.store.get(job.id) == ended.record
    assert (await texts.store.counts()).unreadable == 0
    assert await texts.store.held("default") == Held(0, 5)


async def test_a_record_in_anothers_place_is_no_record(texts: Stage) -> None:
    """Else one job would be run twice, and the other never."""
    first, second = new_job(1), new_job(2)
    for job in (first, second):
        await texts.store.put(job)
    await texts.damage(first.id, await texts.text_of(second.id))
    claimed = [*await texts.store.claim("gateway", 1), *await texts.store.claim("gateway", 1)]
    assert [job.id for job in claimed] == [second.id]


async def test_a_damaged_message_holds_up_no_other(texts: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """It stays where it is, and is never due."""
    jobs = [new_job(number, webhook=HOOK) for number in range(2)]
    for job in jobs:
        await texts.store.put(job)
        await texts.store.write(cancel(job, texts.now))
    rows = await texts.store.take_outbox(9, 1.0)
    await texts.wait(2)
    await texts.store.postpone(replace(rows[0], id=rows[0].id, due_at=texts.now))
    await damage_message(texts, rows[0].id)
    with caplog.at_level(logging.ERROR):
        assert [row.job_id for row in await texts.store.take_outbox(9, 1.0)] == [rows[1].job_id]
    assert any(rows[0].id in line.message for line in caplog.records)
    await texts.wait(1e6)
    assert [row.job_id for row in await texts.store.take_outbox(9, 1.0)] == [rows[1].job_id]
    assert (await texts.store.counts()).messages == 2


async def damage_message(texts: Stage, row_id: str) -> None:
    """Put another text in place of a message."""
    if texts.client is not None:
        await texts.client.hset(f"{PREFIX}messages", row_id, LATER)  # type: ignore[misc]
    else:
        await texts.execute("UPDATE outbox SET message=? WHERE id=?", LATER, row_id)


@pytest.mark.parametrize("texts", ["redis"], indirect=True)
async def test_ids_whose_hash_is_gone_are_dropped(texts: Stage) -> None:
    """As where an operator deleted it, or a Redis that evicts."""
    jobs = [new_job(number, key=f"key {number}", deadline_at=1010.0) for number in range(3)]
    for job in jobs:
        await texts.store.put(job)
    await texts.store.claim("gateway", 1)
    assert texts.client is not None
    await texts.client.delete(*(f"{PREFIX}job:{job.id}" for job in jobs[:2]))
    assert [job.id for job in await texts.store.claim("another", 9)] == [jobs[2].id]
    assert await release(texts.store, "gateway") == ()
    await texts.wait(20)
    assert [job.id for job in (await sweep(texts.store)).expired] == [jobs[2].id]
    assert list(await texts.store.due(9)) == []
    assert (await texts.store.put(new_job(7, key="key 0"))).id == new_job(7).id
