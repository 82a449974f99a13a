"""Jobs and the workers they are placed on, in one gateway process."""

import asyncio
from dataclasses import replace

from lego_serve.core.jobs.job import Job, JobResult, TaskStats
from lego_serve.core.jobs.journal import Journal
from lego_serve.core.placement.pool_jobs import PoolRule
from lego_serve.core.workflow.graph import KINDS
from lego_serve.serving.coordinator.job_pools import JobPools
from tests.support.nodes import WORKFLOWS

WORKFLOW = WORKFLOWS["lego-tiny"]
NODES = {(node.model, KINDS[node.kind].component) for node in WORKFLOW.nodes.values()}
SHARED = dict.fromkeys(NODES, "shared.workers")
HOSTED = {key: ".".join(key) for key in NODES}


def job(number: int, **more: float) -> Job:
    """A job of the built-in workflow."""
    return Job(f"job {number}", "lego-tiny", {"width": 64, "height": 64, "steps": 2}, 0.0, **more)


def pools(binds: bool = True, now: float = 0.0) -> JobPools:
    """Those of a server whose nodes are all shared."""
    return JobPools(SHARED, HOSTED, lambda: now, Journal(), binds=binds)


async def test_a_job_waits_for_a_worker_with_room_and_then_knows_it() -> None:
    """Until no worker is known nobody waits: Serve's own choice is then as good as any."""
    made = pools()
    made.add(job(0), WORKFLOW)
    await made.bound("job 0")
    assert made.target("job 0") == ""
    made.report("shared.workers", {"w1": ()})
    assert made.target("job 0") == "w1"
    for number in range(1, PoolRule().ahead + 1):
        made.add(job(number), WORKFLOW)
    last = f"job {PoolRule().ahead}"
    waiting = asyncio.ensure_future(made.bound(last))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    made.end("job 0", None)
    await waiting
    assert made.target(last) == "w1"


async def test_jobs_that_wait_for_a_worker_are_counted_for_whoever_starts_workers() -> None:
    """Those beyond what one has room for; nobody waits for workers that are not known, or that others place for."""
    for made, waiting in ((pools(), {"shared.workers": 3}), (pools(binds=False), {})):
        made.add(job(0), WORKFLOW)
        assert made.waiting() == {}
        made.report("shared.workers", {"w1": ()})
        for number in range(1, PoolRule().ahead + 3):
            made.add(job(number), WORKFLOW)
        assert made.waiting() == waiting
    dedicated = JobPools(SHARED, dict.fromkeys(NODES, ""), lambda: 0.0, Journal())
    dedicated.report("shared.workers", {"w1": ()})
    for number in range(PoolRule().ahead + 3):
        dedicated.add(job(number), WORKFLOW)
    assert dedicated.waiting() == {}


async def test_jobs_of_a_worker_that_left_go_to_another() -> None:
    """What is told of other applications changes nothing."""
    made = pools()
    made.report("shared.workers", {"w1": (), "w2": ()})
    made.report("another", {})
    made.add(job(0), WORKFLOW)
    first = made.target("job 0")
    made.left([first])
    assert made.target("job 0") in {"w1", "w2"} - {first}


async def test_jobs_of_a_worker_that_drains_or_hangs_go_to_another_until_it_is_well() -> None:
    """One that waits for room goes there as soon as it is."""
    made = pools()
    made.report("shared.workers", dict.fromkeys(("w1", "w2"), tuple(HOSTED.values())))
    names = [f"job {number}" for number in range(PoolRule().ahead + 1)]
    for number in range(len(names)):
        made.add(job(number), WORKFLOW)
    made.set_aside({"w1"})
    [last] = [name for name in names if made.target(name) != "w2"]
    waiting = asyncio.ensure_future(made.bound(last))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    made.set_aside(())
    async with asyncio.timeout(5):
        await waiting
    assert made.target(last) == "w1"


async def test_a_job_whose_worker_cannot_load_its_model_goes_to_one_that_may() -> None:
    """For the seconds that were said; who cannot be known to have it, as beside other gateways, is known likewise."""
    model = next(iter(HOSTED.values()))
    for binds in (True, False):
        made = pools(binds=binds)
        made.report("shared.workers", {"w1": (), "w2": ()})
        made.add(job(0), WORKFLOW)
        first = made.target("job 0") or "w1"
        [other] = {"w1", "w2"} - {first}
        assert made.held_back(model, first, 15.0, "job 0")
        assert made.target("job 0") == (other if binds else "")
        assert not made.held_back(model, other, 15.0, "job 0")
        assert not made.held_back("nobody's", first, 15.0, None)


async def test_beside_other_gateways_no_call_is_placed() -> None:
    """Each would think the workers idle that the others fill."""
    made = pools(binds=False)
    made.report("shared.workers", {"w1": ()})
    made.add(job(0), WORKFLOW)
    await made.bound("job 0")
    assert made.target("job 0") == ""


async def test_a_forecast_comes_from_what_jobs_of_the_workflow_took() -> None:
    """What it waited for a load is not among that."""
    made = pools(now=100.0)
    made.report("shared.workers", {"w1": tuple(HOSTED.values())})
    assert await made.offer(job(9), WORKFLOW) is None
    made.add(job(0), WORKFLOW)
    made.end("job 0", JobResult((), 0.0, stats={"latents": TaskStats(run_s=2.0, load_s=1.5)}))
    heard = await made.offer(job(1), WORKFLOW)
    assert heard is not None
    assert heard.eta_s == 102.0
    late = await made.offer(job(2, deadline_s=101.0), WORKFLOW)
    assert late is not None
    assert late.retry_after_s is not None


async def test_a_tenth_of_the_time_to_a_deadline_is_kept_free() -> None:
    """A prediction that is wrong by so little makes nobody late."""
    made = pools(now=100.0)
    made.report("shared.workers", {"w1": tuple(HOSTED.values())})
    made.add(job(0), WORKFLOW)
    made.end("job 0", JobResult((), 0.0, stats={"latents": TaskStats(run_s=9.0)}))
    for deadline_s, is_late in ((109.9, True), (110.1, False)):
        heard = await made.offer(replace(job(1, deadline_s=deadline_s), submitted_s=100.0), WORKFLOW)
        assert heard is not None
        assert (heard.retry_after_s is not None) == is_late


async def test_a_job_that_was_not_begun_goes_to_a_worker_that_comes_and_the_reason_is_told() -> None:
    """Whoever runs it hears of that; beside other gateways nothing is taken."""
    for binds in (True, False):
        journal, moved = Journal(), list[str]()
        made = JobPools(SHARED, HOSTED, lambda: 0.0, journal, binds=binds)
        made.on_moved = moved.append
        made.report("shared.workers", {"w1": tuple(HOSTED.values())})
        for number in range(3):
            made.add(job(number), WORKFLOW)
        made.progressed("job 0", 1, 2)
        made.report("shared.workers", dict.fromkeys(("w1", "w2"), tuple(HOSTED.values())))
        assert moved == (["job 1"] if binds else [])
        assert made.target("job 1") == ("w2" if binds else "")
        told = [(each.kind, each.job, each.why) for each in journal.decisions()]
        why = "w2 had no work and ends it 0.5 s sooner than w1, where it had not begun"
        assert told == ([("steal", "job 1", why)] if binds else [])


async def test_of_requests_that_come_together_no_more_are_admitted_than_there_is_room_for() -> None:
    """A place is given back by a request that goes away before its job begins, and not by one whose job has."""
    made = pools()
    made.report("shared.workers", {"w1": tuple(HOSTED.values())})
    made.add(job(0), WORKFLOW)
    made.end("job 0", JobResult((), 0.0, stats={"latents": TaskStats(run_s=2.0)}))

    async def admitted(*numbers: int) -> list[int]:
        heard = await asyncio.gather(*(made.offer(job(number, deadline_s=4.5), WORKFLOW) for number in numbers))
        return [n for n, each in zip(numbers, heard, strict=True) if each is not None and each.retry_after_s is None]

    assert await admitted(1, 2, 3) == [1, 2]
    made.add(job(1, deadline_s=4.5), WORKFLOW)
    for name in ("job 1", "job 2", "job 3", "job 2"):
        made.withdraw(name)
    assert made.target("job 1") == "w1"
    assert await admitted(4, 5) == [4]
