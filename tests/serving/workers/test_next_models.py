"""What a worker keeps for requests between their calls, and that nobody waits for it for ever."""

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from lego_serve.core.caching.expectations import Expectations
from lego_serve.serving.workers.host import ModelHost
from tests.support.cluster.shelves import Shelf, use


async def test_what_an_admitted_job_needs_next_stays_between_its_calls() -> None:
    """Another job waits for the room; the first job finds its model where it was."""
    shelf = Shelf("text", "backbone", "other")
    host = ModelHost(shelf.models, 2)
    await use(host, "backbone")
    await use(host, "text", "job", ("backbone",))
    waiting = [asyncio.ensure_future(use(host, "other", "another")) for _ in range(2)]
    await asyncio.gather(*waiting)
    assert "backbone" in host.nodes  # `text`, which nobody needs any more, went
    await use(host, "backbone", "job")
    assert shelf.loads.count("backbone") == 1


async def test_what_a_running_call_needs_next_stays_for_as_long_as_it_runs() -> None:
    """Also beyond the time that a caller between two calls has; from its end on there is that time."""
    host = ModelHost(Shelf("text", "backbone", "other").models, 2, expected=Expectations(0.05))
    await use(host, "backbone")
    async with host.lease("text", "job", ("backbone",)):
        waiting = asyncio.ensure_future(use(host, "other", "another"))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        assert sorted(host.nodes) == ["backbone", "text"]
    await waiting
    assert sorted(host.nodes) == ["backbone", "other"]
    await use(host, "text")  # its time is over by then
    assert len(host.nodes) == 2


async def test_two_jobs_that_need_each_others_room_both_get_it() -> None:
    """Each waits for a model, has the one after it here, and there is room for no more."""
    host = ModelHost(Shelf("a", "after a", "b", "after b").models, 2, expected=Expectations(0.05))
    await use(host, "after a")
    await use(host, "after b")

    async def job(first: str) -> None:
        await use(host, first, first, (f"after {first}",))
        await use(host, f"after {first}", first)

    await asyncio.wait_for(asyncio.gather(job("a"), job("b")), 60)


@given(
    st.lists(st.lists(st.sampled_from("abcd"), min_size=1, max_size=3, unique=True), min_size=2, max_size=5),
    st.integers(2, 4),
)
@settings(max_examples=40, deadline=None)
def test_no_jobs_wait_for_each_other_for_ever(jobs: list[list[str]], budget: int) -> None:
    """Whatever they use in whichever order, with room for as little as the largest model."""

    async def run() -> None:
        models = Shelf("a", "b").models | Shelf("c", "d", size=2).models
        host = ModelHost(models, budget, expected=Expectations(0.005))

        async def job(number: int, names: list[str]) -> None:
            for place, name in enumerate(names):
                await use(host, name, f"job {number}", tuple(names[place + 1 :]))
                assert host.used_bytes <= budget

        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            for number, names in enumerate(jobs):
                group.create_task(job(number, names))

    asyncio.run(run())
