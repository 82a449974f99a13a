"""Facts about every store of durable jobs that chance finds seldom, each stated alone."""

import asyncio
from dataclasses import replace

import pytest

from lego_serve.core.durable_jobs.record import JobStatus
from lego_serve.core.durable_jobs.store import JobQuery
from lego_serve.core.durable_jobs.transitions import Retention, cancel, claim, complete, hand_over
from lego_serve.errors import NotFound, StaleAttempt
from lego_serve.jobstore.sweeping import Swept, change, lost_claims, release, sweep
from tests.support.jobstore.jobs import HOOK, new_job
from tests.support.jobstore.stage import LEASE_S, Stage

RETENTION = Retention(queued_s=50.0, ended_s=100.0)


async def test_a_forgotten_job_frees_its_key(stage: Stage) -> None:
    """The key stands for another job from then on."""
    store = stage.store
    first, second = (new_job(number, key="key", retention=RETENTION) for number in (1, 2))
    await store.put(first)
    assert (await store.put(second)).id == first.id
    await store.write(cancel(first, stage.now))
    await stage.wait(99)
    assert (await sweep(store)).forgotten == ()
    await stage.wait(1)
    assert [job.id for job in (await sweep(store)).forgotten] == [first.id]
    assert await store.get(first.id) is None
    assert (await store.put(second)).id == second.id
    assert [job.id for job in (await store.page(JobQuery("default"))).jobs] == [second.id]


async def test_a_key_is_its_tenants_own(stage: Stage) -> None:
    """Whatever characters are in both names."""
    jobs = [new_job(1, tenant="a:b", key="c"), new_job(2, tenant="a", key="b:c"), new_job(3, tenant="a", key="c")]
    assert [(await stage.store.put(job)).id for job in jobs] == [job.id for job in jobs]


async def test_an_id_is_taken_once(stage: Stage) -> None:
    """A second record of it would put the first away."""
    await stage.store.put(new_job(1))
    with pytest.raises(ValueError, match="is taken"):
        await stage.store.put(new_job(1))


async def test_a_job_that_was_begun_may_outlive_its_time_in_the_queue(stage: Stage) -> None:
    """Only its deadline ends it then."""
    store = stage.store
    await store.put(new_job(1, retention=RETENTION))
    await store.put(new_job(2, retention=RETENTION, deadline_at=1070.0))
    await store.claim("a", 2)
    await stage.wait(60)
    await store.beat("a")
    assert (await sweep(store)).expired == ()
    await stage.wait(10)
    await store.beat("a")
    assert [job.status for job in (await sweep(store)).expired] == [JobStatus.EXPIRED]


async def test_claims_at_once_share_the_jobs(stage: Stage) -> None:
    """No job goes to two, and none is left."""
    jobs = [new_job(number) for number in range(20)]
    for job in jobs:
        await stage.store.put(job)
    claimed = await asyncio.gather(*(stage.store.claim(f"gateway {each}", 3) for each in range(10)))
    ids = [job.id for batch in claimed for job in batch]
    assert sorted(ids) == sorted(job.id for job in jobs)


async def test_of_two_decisions_about_one_record_one_is_written(stage: Stage) -> None:
    """The other is decided again, by what the record has become."""
    store = stage.store
    await store.put(new_job(1, webhook=HOOK))
    (job,) = await store.claim("a", 1)
    assert await store.write(cancel(job, stage.now))
    assert not await store.write(complete(job, 1, {}, stage.now))
    assert [row.event for row in await store.take_outbox(9, 5.0)] == ["job.cancelled"]


async def test_a_decision_is_made_again_where_another_came_first(stage: Stage) -> None:
    """With what the store holds, until it is written or refused."""
    store = stage.store
    await store.put(new_job(1))
    (job,) = await store.claim("a", 1)
    await release(store, "a")
    ended = await change(store, job, lambda held: complete(held, 1, {"data": []}, stage.now))
    assert (ended.status, ended.version) == ("completed", 4)
    await store.put(new_job(2))
    (other,) = await store.claim("a", 1)
    await release(store, "a")
    await store.claim("b", 1)
    with pytest.raises(StaleAttempt):
        await change(store, other, lambda held: hand_over(held, 1))
    with pytest.raises(NotFound):
        await change(store, replace(job, id=new_job(9).id), lambda held: cancel(held, stage.now))


async def test_who_submits_may_claim_in_the_same_step(stage: Stage) -> None:
    """The job is nobody else's for a moment, and its owner has a lease."""
    job = claim(new_job(1), "a", stage.now).record
    await stage.store.put(job)
    assert await stage.store.claim("b", 1) == ()
    assert [each.id for each in await stage.store.owned("a")] == [job.id] == list(await stage.store.owned_ids("a"))
    await stage.wait(LEASE_S)
    swept = await sweep(stage.store)
    assert [(each.id, each.deaths) for each in swept.released] == [(job.id, 1)]


async def test_a_claim_whose_answer_was_lost_is_found_again(stage: Stage) -> None:
    """Its owner lives, so that nobody else would ever run the job."""
    for number in (1, 2):
        await stage.store.put(new_job(number))
    (known,) = await stage.store.claim("a", 1)
    (unknown,) = await stage.store.claim("a", 1)
    assert await lost_claims(stage.store, "a", {known.id}) == (unknown,)
    assert await lost_claims(stage.store, "b", ()) == ()


async def test_a_lease_is_kept_by_beats(stage: Stage) -> None:
    """And lost without, which the next beat tells."""
    await stage.store.put(new_job(1))
    await stage.store.claim("a", 1)
    for _ in range(3):
        await stage.wait(10)
        assert await stage.store.beat("a")
        assert await sweep(stage.store) == Swept()
    await stage.wait(LEASE_S)
    assert list(await stage.store.lapsed_owners()) == ["a"]
    assert not await stage.store.beat("a")
    assert list(await stage.store.lapsed_owners()) == []


async def test_a_message_that_was_taken_is_nobody_elses_for_a_while(stage: Stage) -> None:
    """Its sender may die, so it comes back, as the same message."""
    job = new_job(1, webhook=HOOK)
    await stage.store.put(job)
    await stage.store.write(cancel(job, stage.now))
    (row,) = await stage.store.take_outbox(9, 20.0)
    assert await stage.store.take_outbox(9, 20.0) == []
    await stage.wait(20)
    assert await stage.store.take_outbox(9, 20.0) == [row]
    await stage.store.settle(row.id)
    await stage.store.postpone(replace(row, due_at=0.0))
    await stage.wait(20)
    assert await stage.store.take_outbox(9, 20.0) == []


async def test_a_long_list_is_searched_to_its_end(stage: Stage) -> None:
    """For the few jobs of a model among many others."""
    for number in range(450):
        await stage.store.put(new_job(number, model="rare" if number in (3, 440) else "common"))
    page = await stage.store.page(JobQuery("default", model="rare"))
    assert ([int(job.id[-4:], 16) for job in page.jobs], page.has_more) == ([440, 3], False)
    page = await stage.store.page(JobQuery("default", limit=1, model="rare", ascending=True))
    assert ([int(job.id[-4:], 16) for job in page.jobs], page.has_more) == ([3], True)


async def test_who_waits_for_changes_hears_of_one(stage: Stage) -> None:
    """And of none where nothing changes."""
    await stage.store.wait_for_change(0.05)
    while await stage.store.wait_for_change(0.05):
        pass
    waiting = asyncio.ensure_future(stage.store.wait_for_change(60.0))
    await asyncio.sleep(0.02)
    await stage.store.put(new_job(1))
    assert await asyncio.wait_for(waiting, 30.0)
    while await stage.store.wait_for_change(0.05):
        pass


async def test_gateways_agree_on_a_setting(stage: Stage) -> None:
    """Whoever is first draws the secret with which all sign; what is set later takes its place."""
    drawn = await asyncio.gather(*(stage.store.setting("secret", f"secret {each}") for each in range(4)))
    assert len(set(drawn)) == 1
    await stage.store.set_setting("secret", "another")
    assert await stage.store.setting("secret", "not this") == "another"
    assert await stage.store.setting("other", "first") == "first"


def test_a_page_has_bounds() -> None:
    """A list of everything would hold up whoever asks next."""
    with pytest.raises(ValueError, match="1 to 100 jobs, not 101"):
        JobQuery("default", limit=101)
