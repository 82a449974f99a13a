"""Calls to replicas that hang are given up; others are left alone."""

import asyncio
from collections.abc import AsyncIterator, Collection

import pytest

from lego_serve.core.nodes.requests import CallsInHand, RunningStep
from lego_serve.serving.cluster.replica_watch import ReplicaWatch
from lego_serve.serving.errors import NodeHung, NodeLost
from tests.support.clocks import in_no_time


class Replicas:
    """Two replicas, of which those in ``stopped`` do not answer."""

    def __init__(self) -> None:
        self.stopped: set[str] = set()
        self.has: dict[str, set[str]] = {"r1": set(), "r2": set()}
        self.steps: dict[str, RunningStep] = {}
        self.hung: list[frozenset[str]] = []
        self.questions = 0
        self.is_away = False

    def clock(self) -> float:
        """Seconds."""
        return asyncio.get_running_loop().time()

    async def ask(self) -> AsyncIterator[tuple[str, CallsInHand]]:
        """What each has in hand."""
        self.questions += 1
        if self.is_away:
            raise NodeLost
        for name in self.has:
            if name not in self.stopped:
                yield name, CallsInHand(frozenset(self.has[name]), self.steps.get(name))
        if self.stopped:
            await asyncio.sleep(1000)

    def note_hung(self, before: Collection[str], hung: Collection[str]) -> None:
        """Those that hang from now on."""
        self.hung.append(frozenset(hung))


@pytest.fixture
def replicas() -> Replicas:
    """Both are there, and have nothing in hand."""
    return Replicas()


def watch(some: Replicas) -> ReplicaWatch:
    """Over them."""
    return ReplicaWatch(some.ask, lambda: tuple(some.has), some.note_hung, some.clock)


async def slow(seconds: float) -> str:
    """An answer that takes so long."""
    await asyncio.sleep(seconds)
    return "done"


@in_no_time
async def test_a_call_of_a_replica_that_stops_is_given_up_and_its_work_cancelled(replicas: Replicas) -> None:
    """Soon, and the replica is kept away from until it answers again."""
    replicas.stopped, replicas.has["r1"] = {"r1"}, {"c"}
    mine = watch(replicas)
    with mine.over("c", 0) as call:
        call.heard("r1")
        work = asyncio.ensure_future(slow(6000))
        with pytest.raises(NodeHung):
            await asyncio.wait_for(call.wait_for(work), 30)
        await asyncio.sleep(0)
        assert work.cancelled()
    assert replicas.hung == [frozenset({"r1"})]
    replicas.stopped = set()
    while replicas.hung[-1]:
        await asyncio.sleep(0.5)
    asked = replicas.questions
    await asyncio.sleep(5)
    assert replicas.questions == asked  # nothing is out, and nobody hangs: nobody is asked


@in_no_time
async def test_a_call_that_only_takes_long_is_answered(replicas: Replicas) -> None:
    """Its replica says that it has it, over and over."""
    replicas.has["r2"] = {"c"}
    with watch(replicas).over("c", 0) as call:
        assert await call.wait_for(slow(30)) == "done"
    assert replicas.questions > 2
    assert not any(replicas.hung)


@in_no_time
async def test_a_call_whose_step_does_not_end_is_given_up(replicas: Replicas) -> None:
    """The process answers, its compute thread does not go on."""
    replicas.has["r1"], replicas.steps["r1"] = {"c"}, RunningStep(4.0, 0.1)
    with watch(replicas).over("c", 0) as call, pytest.raises(NodeHung):
        await asyncio.wait_for(call.wait_for(slow(6000)), 30)


@in_no_time
async def test_a_call_that_nobody_has_is_given_up(replicas: Replicas) -> None:
    """It went to a machine that is cut off, or got lost."""
    with watch(replicas).over("c", 0) as call, pytest.raises(NodeHung):
        await asyncio.wait_for(call.wait_for(slow(6000)), 30)


@in_no_time
async def test_where_no_replica_can_be_asked_calls_wait(replicas: Replicas) -> None:
    """A deployment that is being replaced: Serve itself says what becomes of them."""
    replicas.is_away = True
    with watch(replicas).over("c", 0) as call:
        assert await call.wait_for(slow(20)) == "done"


@in_no_time
async def test_whoever_leaves_takes_the_work_along(replicas: Replicas) -> None:
    """A client that is gone waits for nothing."""
    work = asyncio.ensure_future(slow(6000))

    async def waiting() -> None:
        with watch(replicas).over("c", 0) as call:
            await call.wait_for(work)

    task = asyncio.ensure_future(waiting())
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0)
    assert work.cancelled()


@in_no_time
async def test_an_answer_that_comes_as_the_call_is_given_up_counts(replicas: Replicas) -> None:
    """It is there: nothing need be made again."""
    with watch(replicas).over("c", 0) as call:
        done = asyncio.ensure_future(slow(0))
        await done
        call.given_up.set_result(None)
        assert await call.wait_for(done) == "done"
