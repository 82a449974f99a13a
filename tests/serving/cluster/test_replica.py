"""What a replica logs while it answers names the job that it is for."""

import asyncio
import io
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

from lego_serve.core.jobs.messages import Message, NodeCall, NodeResult
from lego_serve.core.nodes.requests import Done, Identify
from lego_serve.process.json_logging import json_handler
from lego_serve.serving.cluster.replica import HeldCalls, NodeReplica

log = logging.getLogger("lego_serve.test_replica")


class TalkativeNode:
    """Logs a line for each request."""

    async def run(self, call: NodeCall[Any]) -> NodeResult[Any]:
        """Answer at once."""
        await asyncio.sleep(0)
        log.warning("at work")
        return NodeResult(Done())

    async def stream(self, call: NodeCall[Any]) -> AsyncIterator[Message]:
        """Answer with the result alone."""
        yield await self.run(call)


async def test_lines_of_requests_at_once_name_their_own_jobs() -> None:
    """Streamed or not; those of a request that is for no job name none."""
    replica = NodeReplica.__new__(NodeReplica)  # without Ray, which tells a replica its id
    replica._node, replica._id, replica._calls = TalkativeNode(), "r1", HeldCalls()
    written = io.StringIO()
    handler = json_handler(written)
    log.addHandler(handler)

    async def streamed(call: NodeCall[Any]) -> None:
        async for _ in replica.stream(call):
            pass

    calls: list[NodeCall[Any]] = [NodeCall(Identify(), tenant="acme", job_id=name) for name in ("job_1", "job_2", None)]
    tasks = [replica.run(calls[0]), streamed(calls[1]), replica.run(calls[2])]
    await asyncio.gather(*(asyncio.ensure_future(task) for task in tasks))
    log.removeHandler(handler)
    lines = map(json.loads, written.getvalue().splitlines())
    assert sorted((line.get("job_id") or "", line["tenant"]) for line in lines) == [
        ("", "acme"),
        ("job_1", "acme"),
        ("job_2", "acme"),
    ]


class OrderlyNode:
    """Notes which requests it has at once."""

    def __init__(self) -> None:
        self.at_once: set[str | None] = set()
        self.seen: list[set[str | None]] = []

    async def run(self, call: NodeCall[Any]) -> NodeResult[Any]:
        """Answer a little later."""
        self.at_once.add(call.job_id)
        self.seen.append(set(self.at_once))
        await asyncio.sleep(0.01)
        self.at_once.discard(call.job_id)
        return NodeResult(Done())


async def test_a_suspect_has_the_replica_to_itself_and_says_so_before_it_runs() -> None:
    """It waits for the calls at work, and those that come after it wait for it; two suspects take turns."""
    replica = NodeReplica.__new__(NodeReplica)
    node = OrderlyNode()
    replica._node, replica._id, replica._calls = node, "r1", HeldCalls()

    async def suspect(name: str) -> list[Message]:
        call: NodeCall[Any] = NodeCall(Identify(), job_id=name, key=name, suspect_steps=1)
        return [message async for message in replica.stream(call)]

    def ordinary(name: str) -> NodeCall[Any]:
        return NodeCall(Identify(), job_id=name, key=name)

    calls = [replica.run(ordinary("a")), replica.run(ordinary("b")), suspect("s"), suspect("t")]
    tasks = [asyncio.ensure_future(call) for call in (*calls, replica.run(ordinary("c")), replica.run(ordinary("d")))]
    answers = await asyncio.gather(*tasks)
    assert node.seen == [{"a"}, {"a", "b"}, {"s"}, {"t"}, {"c"}, {"c", "d"}]
    for told in answers[2:4]:
        assert [type(each).__name__ for each in told] == ["CallAccepted", "LaneProgress", "NodeResult"]
        assert told[1].is_starting
    assert not replica._calls.keys


async def test_a_suspect_that_is_given_up_lets_the_others_go_on() -> None:
    """Whether it waits still or runs."""
    calls = HeldCalls()
    async with calls.side_by_side("a"):
        waiting = asyncio.ensure_future(entered(calls, "s"))
        after = asyncio.ensure_future(beside(calls, "b"))
        await asyncio.sleep(0)
        assert calls.keys == {"a", "s", "b"}
        waiting.cancel()
        await asyncio.wait_for(after, 10)
    running = asyncio.ensure_future(entered(calls, "t"))
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait_for(beside(calls, "c"), 10)
    assert not calls.keys


async def entered(calls: HeldCalls, key: str) -> None:
    """A suspect that runs until it is cancelled."""
    async with calls.alone(key):
        await asyncio.Event().wait()


async def beside(calls: HeldCalls, key: str) -> None:
    """A call that is soon over."""
    async with calls.side_by_side(key):
        pass
