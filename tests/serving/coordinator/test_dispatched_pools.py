"""Jobs of one of several gateways, placed by a dispatcher."""

import asyncio

from lego_serve.core.jobs.job import JobResult, TaskStats
from lego_serve.core.jobs.journal import Journal
from lego_serve.core.placement.pool_jobs import PoolRule
from lego_serve.serving.coordinator.dispatched_pools import DispatchedPools, placement
from lego_serve.serving.coordinator.job_pools import JobPools
from tests.support.dispatchers import (
    APP,
    HOSTED,
    MODELS,
    SHARED,
    WORKFLOW,
    FakeDispatcher,
    gateway,
    job,
    run,
    started,
    told,
)


def test_two_gateways_spread_their_jobs_as_one_would() -> None:
    """Each hears of its own; who is bound at first asks for little time."""

    async def both() -> None:
        dispatcher = FakeDispatcher()
        one, other = gateway(dispatcher), gateway(dispatcher)
        await started(one, other)
        placed = []
        for pools, name in ((one, "a"), (other, "b"), (one, "c"), (other, "d")):
            pools.add(job(name), WORKFLOW)
            before_s = asyncio.get_running_loop().time()
            await pools.bound(name)
            assert asyncio.get_running_loop().time() - before_s < 0.01
            placed.append(pools.target(name))
        assert sorted(placed) == ["w1", "w1", "w2", "w2"]
        assert placed[0] != placed[1]
        assert one.target("b") == one.target(None) == ""

    run(both())


def test_a_job_waits_for_a_worker_with_room_which_another_gateway_may_make() -> None:
    """It hears of it within a quarter of a second."""

    async def waits() -> None:
        dispatcher = FakeDispatcher()
        one, other = gateway(dispatcher), gateway(dispatcher)
        await started(one, other, workers=("w1",))
        for number in range(PoolRule().ahead):
            one.add(job(f"job {number}"), WORKFLOW)
            await one.bound(f"job {number}")
        other.add(job("last"), WORKFLOW)
        waiting = asyncio.ensure_future(other.bound("last"))
        await asyncio.sleep(20.0)
        assert not waiting.done()
        assert (one.waiting(), other.waiting()) == ({}, {APP: 1})
        one.end("job 0", None)
        await asyncio.sleep(0.27)
        assert waiting.done()
        assert other.target("last") == "w1"
        assert other.waiting() == {}

    run(waits())


def test_progress_is_told_a_few_times_a_second_for_all_jobs_together() -> None:
    """An idle gateway says once a second that it is there."""

    async def talks() -> None:
        dispatcher = FakeDispatcher()
        one = gateway(dispatcher)
        await started(one)
        for name in ("a", "b"):
            one.add(job(name), WORKFLOW)
        await asyncio.sleep(0.1)
        since = len(dispatcher.reports)
        for step in range(100):
            one.progressed("a", step, 200)
            one.progressed("b", step, 100)
            await asyncio.sleep(0.02)
        assert 6 <= len(dispatcher.reports) - since <= 8
        assert dispatcher.reports[-1].left_s.keys() == {"a", "b"}
        for name in ("a", "b"):
            one.end(name, None)
        await asyncio.sleep(0.5)
        since = len(dispatcher.reports)
        await asyncio.sleep(10.0)
        assert 9 <= len(dispatcher.reports) - since <= 10

    run(talks())


def test_a_job_that_was_not_begun_goes_to_a_worker_that_comes_and_its_own_gateway_is_told() -> None:
    """Within a quarter of a second, with the reason, and once."""

    async def taken() -> None:
        dispatcher = FakeDispatcher()
        one, other = gateway(dispatcher), gateway(dispatcher)
        moved: list[str] = []
        one.on_moved = moved.append
        await started(one, other, workers=("w1",))
        for number in range(3):
            one.add(job(f"job {number}"), WORKFLOW)
        await one.bound("job 2")
        one.progressed("job 0", 1, 2)
        await asyncio.sleep(0.3)
        other.report(APP, dict.fromkeys(("w1", "w2"), MODELS))
        await asyncio.sleep(0.26)
        assert moved == ["job 1"]
        assert one.target("job 1") == "w2"
        why = "w2 had no work and ends it 0.5 s sooner than w1, where it had not begun"
        assert told(one, "steal") == [("lego-tiny", why)]
        await asyncio.sleep(5.0)
        assert moved == ["job 1"]

    run(taken())


def test_a_job_whose_worker_drains_or_cannot_load_its_model_hears_of_another_one() -> None:
    """Within a moment; also where its place stays the same, since nobody can load it."""

    async def moved() -> None:
        dispatcher = FakeDispatcher()
        one = gateway(dispatcher)
        await started(one)
        one.add(job("a"), WORKFLOW)
        await one.bound("a")
        first = one.target("a")
        [other] = {"w1", "w2"} - {first}
        one.set_aside({first})
        await one.bound("a")
        assert one.target("a") == other
        one.set_aside(())
        one.report(APP, {first: MODELS[1:], other: MODELS[1:]})
        assert one.held_back(MODELS[0], other, 15.0, "a")
        await one.bound("a")
        assert one.target("a") == first
        assert not one.held_back(MODELS[0], first, 15.0, "a")
        await one.bound("a")
        assert one.target("a") in {first, other}

    run(moved())


def test_a_forecast_counts_the_jobs_of_others_and_is_on_this_gateways_clock() -> None:
    """None before a job of the workflow has ended here."""

    async def asks() -> None:
        dispatcher = FakeDispatcher()
        one, other = gateway(dispatcher), gateway(dispatcher)
        await started(one, other, workers=("w1",))
        assert await one.offer(job("a"), WORKFLOW) is None
        for pools in (one, other):
            pools.add(job("a"), WORKFLOW)
            pools.end("a", JobResult((), 0.0, stats={"latents": TaskStats(run_s=2.0, load_s=1.5)}))
        for name in ("b", "c"):
            other.add(job(name), WORKFLOW)
            await other.bound(name)
        now = asyncio.get_running_loop().time()
        late = await one.offer(job("d", deadline_s=now + 1.0), WORKFLOW)
        assert late is not None
        assert (round(late.eta_s - now, 1), late.place) == (2.0, 0)  # before those that have no deadline
        assert late.retry_after_s is not None
        heard = await one.offer(job("d"), WORKFLOW)
        assert heard is not None
        assert (round(heard.eta_s - now, 1), heard.place, heard.retry_after_s) == (6.0, 2, None)

    run(asks())


def test_cells_have_a_dispatcher_each_and_one_that_is_dead_gets_no_new_jobs() -> None:
    """Where another answers; its workers are reported to it alone."""

    async def cells() -> None:
        dispatchers = [FakeDispatcher(), FakeDispatcher()]
        workers = tuple(f"w{number}" for number in range(8))
        one = gateway(*dispatchers)
        await started(one, workers=workers)
        seen = [set(each.reports[0].resident[APP]) for each in dispatchers]
        assert seen[0] | seen[1] == set(workers)
        assert not seen[0] & seen[1]
        dispatchers[1].died = True
        await asyncio.sleep(2.0)
        for number in range(6):
            one.add(job(f"job {number}"), WORKFLOW)
            await one.bound(f"job {number}")
            assert one.target(f"job {number}") in seen[0]
        assert told(one) == []

    run(cells())


def test_a_gateway_asks_dispatchers_only_beside_others_and_where_there_are_any() -> None:
    """Alone it places jobs itself; without shared workers there is no dispatcher."""
    for is_alone, dispatchers, kind in (
        (True, [FakeDispatcher()], JobPools),
        (False, [], JobPools),
        (False, [FakeDispatcher()], DispatchedPools),
    ):
        made = placement(SHARED, HOSTED, lambda: 0.0, Journal(), is_alone=is_alone, dispatchers=dispatchers)
        assert type(made) is kind
