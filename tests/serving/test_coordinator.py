"""The coordinator over hand-written nodes: parallel branches, failures, retries, deadlines, cancelling."""

import asyncio
import time
from collections.abc import Callable

import numpy as np
import pytest

from lego_serve.core.job import Job, TaskStats
from lego_serve.core.wire import Answer, Call
from lego_serve.core.workflow_bind import bind
from lego_serve.errors import DeadlineExceeded, JobCancelled, NodeError, RequestError
from lego_serve.serving.coordinator import Coordinator, NodeLost
from lego_serve.workflow_files import built_in_workflows

WORKFLOWS = built_in_workflows()
PIXELS = {"pixels": np.zeros((2, 4, 6, 3), np.uint8)}


class FakeNode:
    """Answers with ``behave`` and notes what it was asked."""

    is_ready = True

    def __init__(self, behave: Callable[[Call, int], object]) -> None:
        self.behave = behave
        self.calls: list[Call] = []
        self.running = self.most_running = 0
        self.cancelled = 0

    async def run(self, call: Call) -> Answer:
        """One call, a little later."""
        self.calls.append(call)
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        try:
            await asyncio.sleep(0.01)
            said = self.behave(call, len(self.calls))
            if isinstance(said, float):
                await asyncio.sleep(said)
                said = {}
            if isinstance(said, Exception) and not isinstance(said, RequestError):
                raise said
            return Answer(error=said) if isinstance(said, RequestError) else Answer(said, TaskStats(0.1, 0.2))
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1


def nodes(text: object = None, denoise: object = None) -> dict[tuple[str, str], FakeNode]:
    """A model whose text encoder or backbone may be told to misbehave."""
    made = {
        "text_encoder": FakeNode(lambda call, count: text if text is not None else {"tokens": 1}),
        "backbone": FakeNode(lambda call, count: denoise if denoise is not None else {"latents": 2}),
        "vae": FakeNode(lambda call, count: PIXELS),
    }
    return {("lego-tiny", component): node for component, node in made.items()}


def job(deadline_s: float | None = None) -> Job:
    """A job whose inputs are bound."""
    inputs = bind(WORKFLOWS["lego-tiny"], {"prompt": "a", "seed": 2**32 - 1, "n": 2})
    return Job("job-1", "lego-tiny", inputs, time.monotonic(), deadline_s)


def coordinator(some: dict[tuple[str, str], FakeNode]) -> Coordinator:
    """A coordinator over them."""
    return Coordinator(some, WORKFLOWS, time.monotonic)


async def test_a_job_runs_its_branches_at_the_same_time_and_answers_pictures() -> None:
    """Both prompts are encoded at once; pictures carry their seeds, which wrap."""
    some = nodes()
    result = await coordinator(some).run(job())
    assert some["lego-tiny", "text_encoder"].most_running == 2
    assert [(p.width, p.height, p.seed) for p in result.pictures] == [(6, 4, 2**32 - 1), (6, 4, 0)]
    assert set(result.node_s) == {"cond", "negative", "latents", "image"}
    assert result.queue_s == pytest.approx(0.4)


async def test_a_nodes_refusal_reaches_the_caller_as_it_is() -> None:
    """A RequestError made in a replica is raised here, and nothing else is run."""
    some = nodes(text=RequestError("too long", param="prompt"))
    with pytest.raises(RequestError, match="too long"):
        await coordinator(some).run(job())
    assert some["lego-tiny", "backbone"].calls == []


async def test_a_lost_replica_is_tried_again() -> None:
    """One NodeLost costs a retry, not the job."""
    some = nodes()
    some["lego-tiny", "backbone"].behave = lambda call, count: NodeLost() if count == 1 else {"latents": 2}
    await coordinator(some).run(job())
    assert len(some["lego-tiny", "backbone"].calls) == 2


async def test_a_replica_lost_every_time_ends_the_job() -> None:
    """After three tries the job fails and says so."""
    some = nodes(denoise=NodeLost())
    with pytest.raises(NodeError, match="3 times"):
        await coordinator(some).run(job())


async def test_an_unexpected_error_is_the_nodes_fault() -> None:
    """The caller hears of the node, not of the library's words."""
    with pytest.raises(NodeError) as failed:
        await coordinator(nodes(denoise=ValueError("secret"))).run(job())
    assert "secret" not in str(failed.value)


async def test_a_deadline_cancels_what_is_out() -> None:
    """When the deadline passes the running task is cancelled and the job fails."""
    some = nodes(denoise=30.0)
    with pytest.raises(DeadlineExceeded):
        await coordinator(some).run(job(time.monotonic() + 0.1))
    await asyncio.sleep(0)
    assert some["lego-tiny", "backbone"].cancelled == 1


async def test_cancelling_by_an_operator_and_by_leaving() -> None:
    """Either way the task is cancelled and nothing stays in flight."""
    for leave in (False, True):
        some = nodes(denoise=30.0)
        mine = coordinator(some)
        running = asyncio.ensure_future(mine.run(job()))
        await asyncio.sleep(0.1)
        if leave:
            running.cancel()
        else:
            assert mine.cancel("job-1")
        with pytest.raises(asyncio.CancelledError if leave else JobCancelled):
            await running
        await asyncio.sleep(0.02)
        assert (some["lego-tiny", "backbone"].cancelled, mine.in_flight) == (1, 0)
        assert not mine.cancel("job-1")
