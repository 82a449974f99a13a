"""The coordinator over hand-written nodes: parallel branches, failures, deadlines, cancelling, operators."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from lego_serve.core.jobs.job import JobProgress
from lego_serve.core.jobs.messages import LaneProgress
from lego_serve.core.jobs.progress import StreamOptions
from lego_serve.core.nodes.requests import FitPreview, PauseCall, PreviewMatrix
from lego_serve.errors import DeadlineExceeded, JobCancelled, NodeError, NotFound, RequestError
from lego_serve.serving.coordinator.coordinator import CheckTimes, Coordinator
from lego_serve.serving.errors import NodeLost
from tests.support.nodes import IMAGES, LATENTS, WORKFLOWS, coordinator, job, nodes, now

EVERY = {"lego-tiny": 5}  # steps between two checkpoints


async def test_a_job_runs_its_branches_at_the_same_time_and_answers_images() -> None:
    """Both prompts are encoded at once; images carry their seeds, which wrap."""
    some = nodes()
    result = await coordinator(some).run(job())
    assert some["lego-tiny", "text_encoder"].most_running == 2
    assert [(p.width, p.height, p.seed) for p in result.images] == [(6, 4, 2**32 - 1), (6, 4, 0)]
    assert set(result.node_s) == {"cond", "negative", "latents", "image"}
    assert result.queue_s == pytest.approx(0.4)


async def test_a_nodes_refusal_reaches_the_caller_as_it_is() -> None:
    """A RequestError made in a replica is raised here, and nothing else is run."""
    some = nodes(text=RequestError("too long", param="prompt"))
    with pytest.raises(RequestError, match="too long"):
        await coordinator(some).run(job())
    assert some["lego-tiny", "backbone"].calls == []


async def test_jobs_in_flight_say_how_they_stand() -> None:
    """Age, and each node waiting, running or done; nothing once the job has ended."""
    mine = coordinator(nodes(denoise=0.3))
    running = asyncio.ensure_future(mine.run(job()))
    await asyncio.sleep(0.15)
    [state] = mine.states()
    assert (state.id, state.workflow, state.tenant) == ("job-1", "lego-tiny", "default")
    assert state.nodes == {"cond": "done", "negative": "done", "latents": "running", "image": "waiting"}
    assert 0.1 < state.age_s < 5
    await running
    assert mine.states() == []


async def test_an_id_that_is_in_flight_is_refused_and_harms_nobody() -> None:
    """The job that has it goes on as if nothing had been; after its end the id is free."""
    mine = coordinator(nodes(denoise=0.2))
    first = asyncio.ensure_future(mine.run(job()))
    await asyncio.sleep(0.05)
    with pytest.raises(ValueError, match="already in flight"):
        await mine.run(job(now() + 0.01))
    assert [state.id for state in mine.states()] == ["job-1"]
    assert len((await asyncio.wait_for(first, 60)).images) == 2
    assert mine.in_flight == 0
    await mine.run(job())


async def test_a_preview_that_cannot_be_made_does_not_end_its_job(caplog: pytest.LogCaptureFixture) -> None:
    """It is left out, and the log says why."""
    some = nodes()
    preview = np.ones((2, 3, 4), np.float32)
    some["lego-tiny", "backbone"].says[1] = [LaneProgress(0, 10, 20, preview=preview)]
    some["lego-tiny", "vae"].behave = lambda call, count: (
        NodeError("no") if isinstance(call.request, FitPreview) else IMAGES
    )
    told: list[JobProgress] = []
    result = await coordinator(some).run(replace(job(), stream=StreamOptions(1)), told.append)
    assert (len(result.images), told) == (2, [])
    assert "preview" in caplog.text


async def test_progress_reaches_who_listens_with_previews_projected() -> None:
    """Steps are told as they are; a preview's latents become an image by the VAE's own matrix."""
    some = nodes()
    latents = np.ones((2, 3, 4), np.float32)
    some["lego-tiny", "backbone"].says[1] = [LaneProgress(0, 5, 20, 1.5), LaneProgress(1, 10, 20, 1.0, preview=latents)]
    matrix = np.zeros((19, 3), np.float32)
    matrix[4], matrix[13], matrix[18] = [0.5, 0, 0], [0.25, 0, 0], [0.25, 0.5, 0]  # the latents' own places
    some["lego-tiny", "vae"].behave = lambda call, count: (
        PreviewMatrix(matrix) if isinstance(call.request, FitPreview) else IMAGES
    )
    told: list[JobProgress] = []
    await coordinator(some).run(replace(job(), stream=StreamOptions(1, steps=True)), told.append)
    assert (told[0].index, told[0].step, told[0].preview) == (0, 5, None)
    assert told[1].preview is not None
    assert (told[1].preview.width, told[1].preview.height, told[1].preview.rgb[:3]) == (4, 3, bytes((255, 128, 0)))


async def test_an_operator_drains_a_replica_by_its_id() -> None:
    """The calls that moved are counted; an unknown id is not found."""
    mine = coordinator(nodes())
    assert await mine.replicas() == {"r1": "lego-tiny.backbone", "r2": "lego-tiny.backbone"}
    assert await mine.drain("r1") == 1
    with pytest.raises(NotFound):
        await mine.drain("r9")


async def test_an_unexpected_error_is_the_nodes_fault() -> None:
    """The caller hears of the node, not of the library's words."""
    with pytest.raises(NodeError) as failed:
        await coordinator(nodes(denoise=ValueError("secret"))).run(job())
    assert "secret" not in str(failed.value)


async def test_an_operator_pauses_a_job_wherever_its_lanes_are() -> None:
    """The command goes out until a replica has the call; a call that goes elsewhere brings it along."""
    some = nodes()
    backbone = some["lego-tiny", "backbone"]
    backbone.behave = lambda call, count: NodeLost() if count == 1 else LATENTS if count == 3 else 0.5
    mine = coordinator(some)
    running = asyncio.ensure_future(mine.run(job()))
    while not backbone.calls:
        await asyncio.sleep(0.001)
    key = backbone.calls[0].key
    assert key
    assert await mine.pause("job-1", True)
    assert backbone.commands == [PauseCall(key, True)] * 2
    assert [state.is_paused for state in mine.states()] == [True]
    while len(backbone.calls) < 2:
        await asyncio.sleep(0.01)
    assert [call.is_paused for call in backbone.calls] == [False, True]
    assert await mine.pause("job-1", False)
    assert backbone.commands[2:] == [PauseCall(key, False)] * 2
    assert not any(state.is_paused for state in mine.states())
    await running
    assert not await mine.pause("job-1", True)


async def test_a_deadline_cancels_what_is_out() -> None:
    """When the deadline passes the running task is cancelled and the job fails."""
    some = nodes(denoise=30.0)
    with pytest.raises(DeadlineExceeded):
        await coordinator(some).run(job(now() + 0.1))
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


async def test_an_idle_coordinator_checks_its_dataflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check follows the last event, and reports a broken invariant."""
    checks: list[bool] = []
    mine = Coordinator(nodes(), WORKFLOWS, now, EVERY, checks.append, checks=CheckTimes(0.05, 60.0))
    await mine.run(job())
    await asyncio.sleep(0.1)
    assert checks == [True]

    def broken() -> None:
        raise AssertionError("a node is in two states")

    monkeypatch.setattr(mine._dataflow, "check", broken)
    await mine.run(job())
    await asyncio.sleep(0.1)
    assert checks == [True, False]


async def test_a_coordinator_under_steady_load_checks_its_dataflow_too() -> None:
    """Events that keep coming put a check off until the longest time between checks, and no longer."""
    checks: list[bool] = []
    mine = Coordinator(nodes(), WORKFLOWS, now, EVERY, checks.append, checks=CheckTimes(60.0, 0.1))
    started = now()
    while not checks and now() - started < 5:
        await mine.run(job())
    assert checks == [True]
    assert now() - started >= 0.1
