"""What it costs a gateway that the dispatcher dies, hangs and returns, and the dispatcher that a gateway does."""

import asyncio

from lego_serve.core.jobs.job import JobResult, TaskStats
from lego_serve.core.placement.pool_jobs import PoolRule
from tests.support.dispatchers import (
    APP,
    MODELS,
    WORKFLOW,
    FakeDispatcher,
    gateway,
    job,
    run,
    started,
    told,
)


def test_while_the_dispatcher_is_dead_nobody_waits_and_it_comes_back_by_itself() -> None:
    """It is said once; what is in flight is told again, with where it is, and calls of lot stay where they went."""

    async def dies() -> None:
        dispatcher = FakeDispatcher()
        one = gateway(dispatcher)
        await started(one)
        one.add(job("before"), WORKFLOW)
        one.add(job("ends"), WORKFLOW)
        await one.bound("before")
        place = one.target("before")
        dispatcher.died = True
        one.progressed("before", 1, 2)
        one.end("ends", JobResult((), 0.0, stats={"latents": TaskStats(run_s=2.0)}))
        await asyncio.sleep(0.1)
        one.add(job("meanwhile"), WORKFLOW)
        before_s = asyncio.get_running_loop().time()
        await one.bound("meanwhile")
        assert await one.offer(job("new"), WORKFLOW) is None
        assert asyncio.get_running_loop().time() == before_s
        assert [one.target(name) for name in ("before", "meanwhile")] == ["", ""]
        await asyncio.sleep(60.0)
        [(subject, why)] = told(one)
        assert (subject, "calls go to workers by what this gateway knows" in why) == (APP, True)
        dispatcher.start()
        await asyncio.sleep(1.0)
        assert one.target("before") == place
        assert one.target("meanwhile") in {"w1", "w2"}
        [whole] = [each for each in dispatcher.reports if each.is_whole][-1:]
        assert {each.id: (each.replica, each.is_settled) for each in whole.added} == {
            "before": (place, True),
            "meanwhile": ("", True),
        }
        assert [why for _, why in told(one)][1:] == ["it answers again and places jobs"]
        assert await one.offer(job("new"), WORKFLOW) is not None

    run(dies())


def test_a_dispatcher_that_hangs_costs_a_request_a_fifth_of_a_second_and_then_nothing() -> None:
    """Its forecast, and the first word of its place; late answers do no harm."""

    async def hangs() -> None:
        dispatcher, loop = FakeDispatcher(), asyncio.get_running_loop()
        one = gateway(dispatcher)
        await started(one)
        one.add(job("first"), WORKFLOW)
        one.end("first", JobResult((), 0.0, stats={"latents": TaskStats(run_s=2.0)}))
        await asyncio.sleep(0.1)
        dispatcher.hangs, before_s = True, loop.time()
        assert await one.offer(job("a"), WORKFLOW) is None
        assert loop.time() - before_s < 0.21
        one.add(job("a"), WORKFLOW)
        before_s = loop.time()
        await one.bound("a")
        assert loop.time() - before_s < 0.21
        assert one.target("a") == ""
        await asyncio.sleep(2.0)
        before_s = loop.time()
        one.add(job("b"), WORKFLOW)
        await one.bound("b")
        assert await one.offer(job("c"), WORKFLOW) is None
        assert loop.time() == before_s
        assert len(told(one)) == 1
        dispatcher.hangs = False
        await asyncio.sleep(2.0)
        assert {one.target("a"), one.target("b")} == {"w1", "w2"}
        [held] = (await dispatcher.inner.placed()).values()
        assert sorted(held.items()) == [("a", one.target("a")), ("b", one.target("b"))]

    run(hangs())


def test_a_gateway_that_is_killed_leaves_no_job_behind() -> None:
    """The other's stay, and get its room."""

    async def killed() -> None:
        dispatcher = FakeDispatcher()
        one, other = gateway(dispatcher), gateway(dispatcher)
        await started(one, other, workers=("w1",))
        for number in range(PoolRule().ahead):
            one.add(job(f"job {number}"), WORKFLOW)
            await one.bound(f"job {number}")
        other.add(job("last"), WORKFLOW)
        waiting = asyncio.ensure_future(other.bound("last"))
        talk = one._links[0]._talking
        assert talk is not None
        talk.cancel()
        await asyncio.sleep(3.0)
        assert not waiting.done()
        await asyncio.sleep(3.0)
        assert waiting.done()
        assert list((await dispatcher.inner.placed()).values()) == [{"last": "w1"}]

    run(killed())


def test_workers_that_leave_take_no_more_calls_and_their_jobs_wait_for_another() -> None:
    """Until one is known nobody waits: Serve's own choice is then as good as any."""

    async def leaves() -> None:
        dispatcher = FakeDispatcher()
        one = gateway(dispatcher)
        await started(one)
        one.add(job("a"), WORKFLOW)
        await one.bound("a")
        first = one.target("a")
        one.left([first])
        await one.bound("a")
        assert one.target("a") in {"w1", "w2"} - {first}
        one.left(["w1", "w2"])
        await one.bound("a")
        assert one.target("a") == ""
        one.report("another", {"w9": ()})
        one.report(APP, {"w3": MODELS})
        await asyncio.sleep(0.1)
        assert one.target("a") == "w3"

    run(leaves())


def test_no_place_is_lost_to_a_request_that_goes_away_or_an_answer_that_comes_too_late() -> None:
    """The dispatcher hears of it at once, from another gateway's newcomer on; a job that begins keeps its place."""

    async def offers() -> None:
        dispatcher, loop = FakeDispatcher(), asyncio.get_running_loop()
        one, other = gateway(dispatcher), gateway(dispatcher)
        await started(one, other, workers=("w1",))
        for pools in (one, other):
            pools.add(job("first"), WORKFLOW)
            pools.end("first", JobResult((), 0.0, stats={"latents": TaskStats(run_s=2.0)}))
        await asyncio.sleep(0.1)

        async def is_admitted(name: str) -> bool:
            heard = await other.offer(job(name, deadline_s=loop.time() + 3.0), WORKFLOW)
            other.withdraw(name)
            await asyncio.sleep(0.1)
            return heard is not None and heard.retry_after_s is None

        wanted = job("a", deadline_s=loop.time() + 3.0)
        assert await one.offer(wanted, WORKFLOW) is not None
        assert not await is_admitted("b")
        one.withdraw("a")
        await asyncio.sleep(0.1)
        assert await is_admitted("b")
        asking = asyncio.ensure_future(one.offer(wanted, WORKFLOW))
        await asyncio.sleep(0.001)
        asking.cancel()
        await asyncio.sleep(0.1)
        assert await is_admitted("b")
        wanted = job("a", deadline_s=loop.time() + 3.0)
        assert await one.offer(wanted, WORKFLOW) is not None
        one.add(wanted, WORKFLOW)
        one.withdraw("a")
        await asyncio.sleep(0.1)
        assert not await is_admitted("b")
        assert one.target("a") == "w1"
        one.end("a", None)
        await asyncio.sleep(0.1)
        assert await is_admitted("b")

    run(offers())
