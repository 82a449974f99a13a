"""Calls that are made again, and steps that are redone, are told of as it happens, however their job ends."""

import asyncio
from collections import Counter
from dataclasses import replace

import pytest

from lego_serve.core.jobs.messages import LaneProgress
from lego_serve.errors import DeadlineExceeded, JobCancelled, LegoError, NodeError, RequestError
from lego_serve.serving.coordinator.coordinator import Coordinator
from lego_serve.serving.errors import NodeLost
from tests.support.nodes import CONDITIONING, IMAGES, LATENTS, FakeNode, coordinator, job, nodes, now


class Counts:
    """What the journal of a coordinator tells whoever counts."""

    def __init__(self, of: Coordinator) -> None:
        self.retries, self.redone = Counter[tuple[str, str]](), Counter[str]()
        of.journal.on_retry = lambda kind, model: self.retries.update({(kind, model): 1})
        of.journal.on_redone = lambda model, steps: self.redone.update({model: steps})


async def reached(node: FakeNode, calls: int) -> None:
    """Wait until a node has been called so often."""
    while len(node.calls) < calls:
        await asyncio.sleep(0.005)


async def test_the_calls_of_a_job_that_ends_well_are_counted_once_each() -> None:
    """With the steps past the last checkpoint."""
    some = nodes()
    backbone, vae = some["lego-tiny", "backbone"], some["lego-tiny", "vae"]
    backbone.says[1] = [LaneProgress(0, 5, 20, checkpoint=b"five"), LaneProgress(0, 7, 20)]
    backbone.behave = lambda call, count: NodeLost() if count == 1 else LATENTS
    vae.behave = lambda call, count: NodeLost() if count <= 2 else IMAGES
    mine = coordinator(some)
    counts = Counts(mine)
    result = await mine.run(job())
    assert counts.retries == {("denoise", "lego-tiny"): 1, ("decode", "lego-tiny"): 2}
    assert counts.redone["lego-tiny"] == result.stats["latents"].steps_redone == 2


@pytest.mark.parametrize("error", [RequestError("no", param="prompt"), ValueError("no")])
async def test_the_calls_of_a_job_that_fails_are_counted(error: Exception) -> None:
    """Those of the node that failed, and the steps of the one before it."""
    some = nodes()
    backbone, vae = some["lego-tiny", "backbone"], some["lego-tiny", "vae"]
    backbone.says[1] = [LaneProgress(0, 5, 20, checkpoint=b"five"), LaneProgress(0, 8, 20)]
    backbone.behave = lambda call, count: NodeLost() if count == 1 else LATENTS
    vae.behave = lambda call, count: NodeLost() if count == 1 else error
    mine = coordinator(some)
    counts = Counts(mine)
    with pytest.raises(LegoError):
        await mine.run(job())
    assert counts.retries == {("denoise", "lego-tiny"): 1, ("decode", "lego-tiny"): 1}
    assert counts.redone["lego-tiny"] == 3


async def test_a_call_that_is_given_up_has_been_made_again_so_often() -> None:
    """Its last loss is followed by no call, and counts none."""
    some = nodes()
    vae = some["lego-tiny", "vae"]
    vae.behave = lambda call, count: NodeLost()
    mine = coordinator(some)
    counts = Counts(mine)
    with pytest.raises(NodeError):
        await mine.run(job())
    assert counts.retries["decode", "lego-tiny"] == len(vae.calls) - 1 > 1


async def test_the_calls_of_a_job_that_is_cancelled_or_expires_are_counted() -> None:
    """By an operator, by a client that leaves, and by its deadline, while the call that was made again runs."""
    for end in ("operator", "client", "deadline"):
        some = nodes()
        backbone = some["lego-tiny", "backbone"]
        backbone.behave = lambda call, count: NodeLost() if count == 1 else 60.0
        mine = coordinator(some)
        counts = Counts(mine)
        asked = replace(job(), deadline_s=now() + 0.5) if end == "deadline" else job()
        running = asyncio.ensure_future(mine.run(asked))
        await reached(backbone, 2)
        if end == "operator":
            mine.cancel(asked.id)
        elif end == "client":
            running.cancel()
        with pytest.raises((JobCancelled, DeadlineExceeded, asyncio.CancelledError)):
            await running
        assert counts.retries == {("denoise", "lego-tiny"): 1}, end


async def test_a_job_that_lost_nothing_counts_nothing() -> None:
    """Nor does a call whose inputs were at hand."""
    some = nodes(text=CONDITIONING)
    mine = coordinator(some)
    counts = Counts(mine)
    await mine.run(job())
    assert not counts.retries
    assert not counts.redone["lego-tiny"]
