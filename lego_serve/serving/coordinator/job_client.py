"""The client awaiting a job, and its outstanding calls."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

from lego_serve.core.jobs.job import GeneratedImage, Job, JobProgress, JobResult
from lego_serve.core.jobs.messages import LaneProgress, NodeCall, NodeResult
from lego_serve.core.jobs.ports import CheckpointKeeper, OnProgress
from lego_serve.core.jobs.progress import LaneCheckpoint
from lego_serve.core.jobs.recovery import Recovery
from lego_serve.errors import LegoError
from lego_serve.serving.coordinator.broadcast import ControllableNode
from lego_serve.serving.coordinator.denoise_calls import StreamingNode

ReplyT = TypeVar("ReplyT")
log = logging.getLogger("lego_serve.coordinator")


class NodeHandle(StreamingNode, ControllableNode, Protocol):
    """One deployment, as the coordinator sees it."""

    async def run(self, call: NodeCall[ReplyT]) -> NodeResult[ReplyT]:
        """Make a call.  Raises NodeLost; cancelling the await cancels the call."""
        ...

    @property
    def is_ready(self) -> bool:
        """Whether a replica has answered."""
        ...

    @property
    def hosted(self) -> str:
        """Its name on the shared workers; empty for a node with a deployment of its own."""
        ...


@dataclass(slots=True)
class JobClient:
    """The client of one job: its future, its timer, and the calls that are out for it."""

    job: Job
    future: asyncio.Future[JobResult]
    on_progress: OnProgress | None = None
    checkpoints: CheckpointKeeper | None = None
    timer: asyncio.TimerHandle | None = None
    calls: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    previews: dict[int, int] = field(default_factory=dict)  # shown so far, by lane
    is_paused: bool = False
    denoising: dict[str, NodeHandle] = field(default_factory=dict)  # by the call's key
    recoveries: dict[str, Recovery] = field(default_factory=dict)  # of denoising tasks, by node
    denoised_s: float | None = None  # when the last of it ended

    def resolve(self, outcome: JobResult | LegoError) -> None:
        """End the wait, unless it has ended."""
        if self.future.done():
            return
        if isinstance(outcome, LegoError):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)

    def recovery(self, node: str, checkpoint_every_steps: int) -> Recovery:
        """Return the recovery of a denoising task, the same each time it runs."""
        if node not in self.recoveries:
            kept = {} if self.checkpoints is None else self.checkpoints.kept(node)
            self.recoveries[node] = Recovery(checkpoint_every_steps, kept)
        return self.recoveries[node]

    def keep(self, node: str, progress: LaneProgress) -> None:
        """Hand a lane's checkpoint on to whoever keeps them beyond this process."""
        if self.checkpoints is not None and progress.checkpoint is not None:
            self.checkpoints.keep(node, progress.lane, LaneCheckpoint(progress.step, progress.checkpoint))

    def report(self, progress: LaneProgress, make_preview: Callable[[], Awaitable[GeneratedImage]]) -> None:
        """Pass a lane's progress on as far as the client listens; a preview that is due is made meanwhile."""
        if self.on_progress is None or progress.is_starting or not progress.is_report:
            return
        report = JobProgress(progress.lane, progress.step, progress.steps, progress.eta_s)
        shown = self.previews.get(progress.lane, 0)
        # A lane that went on elsewhere may show a step again; nobody gets more previews than asked for.
        if progress.preview is None or shown >= self.job.stream.previews:
            if self.job.stream.steps:
                self.on_progress(report)
            return
        self.previews[progress.lane] = shown + 1
        name = f"preview {progress.lane} {progress.step}"
        self.calls[name] = asyncio.ensure_future(self._show(report, make_preview, self.on_progress))

    async def _show(
        self, report: JobProgress, make_preview: Callable[[], Awaitable[GeneratedImage]], on_progress: OnProgress
    ) -> None:
        try:
            image = await make_preview()
        except Exception:
            log.warning("a preview of job %s could not be made", self.job.id, exc_info=True)
        else:
            on_progress(replace(report, preview=image))
