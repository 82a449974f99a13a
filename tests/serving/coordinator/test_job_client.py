"""The client of a job: it hears what it listens to, and its wait ends once."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from lego_serve.core.jobs.job import GeneratedImage, JobProgress, JobResult
from lego_serve.core.jobs.messages import LaneProgress
from lego_serve.core.jobs.progress import LaneCheckpoint, StreamOptions
from lego_serve.errors import JobCancelled, NodeError
from lego_serve.serving.coordinator.job_client import JobClient
from tests.support.nodes import job

IMAGE = GeneratedImage(1, 1, b"rgb", 0)
PREVIEW = LaneProgress(0, 10, 20, 1.0, preview=np.ones((2, 3, 4), np.float32))


def client(stream: StreamOptions, reports: list[JobProgress]) -> JobClient:
    """A client that listens to its job."""
    future: asyncio.Future[JobResult] = asyncio.get_running_loop().create_future()
    return JobClient(replace(job(), stream=stream), future, reports.append)


async def image() -> GeneratedImage:
    """A preview, made at once."""
    return IMAGE


async def no_image() -> GeneratedImage:
    """A preview that cannot be made."""
    raise NodeError("no")


async def test_the_first_outcome_ends_the_wait() -> None:
    """A result after an error, or an error after a result, changes nothing."""
    result = JobResult((), 0.0)
    done, failed = client(StreamOptions(), []), client(StreamOptions(), [])
    done.resolve(result)
    done.resolve(JobCancelled("late"))
    assert await done.future is result
    failed.resolve(JobCancelled("first"))
    failed.resolve(result)
    with pytest.raises(JobCancelled):
        await failed.future


async def test_steps_reach_a_client_that_listens_to_steps() -> None:
    """A step about to run, or one of which it is not to hear, does not."""
    reports: list[JobProgress] = []
    listener = client(StreamOptions(steps=True), reports)
    for progress in (
        LaneProgress(1, 5, 20, 1.5),
        LaneProgress(1, 6, 20, is_starting=True),
        LaneProgress(1, 7, 20, is_report=False),
    ):
        listener.report(progress, image)
    assert reports == [JobProgress(1, 5, 20, 1.5)]
    assert not listener.calls


async def test_steps_do_not_reach_a_client_of_previews() -> None:
    """Nor anything one that does not listen at all."""
    reports: list[JobProgress] = []
    client(StreamOptions(previews=1), reports).report(LaneProgress(0, 5, 20), image)
    silent = client(StreamOptions(previews=1, steps=True), reports)
    silent.on_progress = None
    silent.report(PREVIEW, image)
    assert reports == []
    assert not silent.calls


async def test_a_client_gets_no_more_previews_than_it_wants() -> None:
    """Of each lane; a lane that was moved shows the same step again."""
    reports: list[JobProgress] = []
    listener = client(StreamOptions(previews=1), reports)
    for lane in (0, 0, 1):
        listener.report(replace(PREVIEW, lane=lane), image)
    await asyncio.gather(*listener.calls.values())
    assert [(report.index, report.step, report.preview) for report in reports] == [(0, 10, IMAGE), (1, 10, IMAGE)]


async def test_a_preview_that_cannot_be_made_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    """The log names the job; the wait goes on."""
    reports: list[JobProgress] = []
    listener = client(StreamOptions(previews=1), reports)
    listener.report(PREVIEW, no_image)
    await asyncio.gather(*listener.calls.values())
    assert reports == []
    assert "job-1" in caplog.text
    assert not listener.future.done()


async def test_a_durable_jobs_checkpoints_are_kept_and_gone_on_from() -> None:
    """By node and lane, the newest one; another process begins its recovery with them."""

    class Keeper:
        def __init__(self) -> None:
            self.lanes: dict[tuple[str, int], LaneCheckpoint] = {}

        def kept(self, node: str) -> dict[int, LaneCheckpoint]:
            return {lane: each for (of, lane), each in self.lanes.items() if of == node}

        def keep(self, node: str, lane: int, checkpoint: LaneCheckpoint) -> None:
            self.lanes[node, lane] = checkpoint

    keeper = Keeper()
    first = client(StreamOptions(), [])
    first.checkpoints = keeper
    for step in (5, 10):
        first.keep("latents", LaneProgress(1, step, 20, checkpoint=str(step).encode()))
    first.keep("latents", LaneProgress(1, 12, 20))
    second = client(StreamOptions(), [])
    second.checkpoints = keeper
    assert second.recovery("latents", 5).begin().checkpoints == {1: b"10"}
    assert second.recovery("latents", 5) is second.recovery("latents", 5)
    assert second.recovery("refine", 5).begin().checkpoints == {}
