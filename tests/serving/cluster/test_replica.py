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
