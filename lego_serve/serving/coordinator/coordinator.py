"""Runs jobs: carries out the dataflow's commands with node handles and turns what comes back into events.

One lives in each gateway process; it imports no torch.  Each job's state is in ``Dataflow``; here are
only its awaiting client, its timer and the calls that are out.
"""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from lego_serve.core.addons import AdapterCommand
from lego_serve.core.costs import PostDenoiseTime
from lego_serve.core.editing.templates import TemplateCommand
from lego_serve.core.jobs.dataflow import Dataflow
from lego_serve.core.jobs.events import (
    CancelRequested,
    CancelTask,
    Command,
    DeadlinePassed,
    Dispatch,
    Event,
    Fail,
    Finish,
    JobSubmitted,
    TaskDone,
    TaskFailed,
)
from lego_serve.core.jobs.job import Job, JobProgress, JobResult, JobState, Ref, Task
from lego_serve.core.jobs.messages import LaneProgress, NodeCall, NodeResult
from lego_serve.core.workflow.graph import KINDS, Workflow
from lego_serve.errors import LegoError, NodeError
from lego_serve.serving.coordinator.adapter_admin import run_adapter_command
from lego_serve.serving.coordinator.broadcast import ControllableNode, ask_template, drain, list_replicas
from lego_serve.serving.coordinator.denoise_calls import DenoiseStreams, StreamingNode
from lego_serve.serving.coordinator.previews import Previews
from lego_serve.serving.coordinator.results import result_of
from lego_serve.serving.errors import NodeLost

ATTEMPTS = 20
RETRY_PAUSE_S = 0.5
ORDER_ATTEMPTS, ORDER_PAUSE_S = 50, 0.1
OnProgress = Callable[[JobProgress], None]
log = logging.getLogger("lego_serve.coordinator")


class NodeHandle(StreamingNode, ControllableNode, Protocol):
    """One deployment, as the coordinator sees it."""

    async def run(self, call: NodeCall) -> NodeResult:
        """Make a call.  Raises NodeLost; cancelling the await cancels the call."""
        ...

    async def resident(self) -> list[tuple[str, tuple[str, ...]]]:
        """The adapters each replica has at hand, by their hashes.  Raises NodeLost."""
        ...

    @property
    def is_ready(self) -> bool:
        """Whether a replica has answered."""
        ...


@dataclass(slots=True)
class _Client:
    """Who waits for a job."""

    job: Job
    future: asyncio.Future[JobResult]
    tell: OnProgress | None = None
    timer: asyncio.TimerHandle | None = None
    calls: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    previews: dict[int, int] = field(default_factory=dict)  # shown so far, by lane
    is_paused: bool = False
    denoising: dict[str, NodeHandle] = field(default_factory=dict)  # by the call's key
    denoised_s: float | None = None  # when the last of it ended


class Coordinator:
    """Runs the jobs of one process over shared nodes, keyed by (model, component)."""

    def __init__(
        self,
        nodes: Mapping[tuple[str, str], NodeHandle],
        workflows: Mapping[str, Workflow],
        clock: Callable[[], float],
    ) -> None:
        self._nodes, self._workflows, self._clock = nodes, workflows, clock
        self._dataflow = Dataflow()
        self._denoise = DenoiseStreams()
        self._tails = PostDenoiseTime()
        self._previews = Previews(nodes)
        self._clients: dict[str, _Client] = {}

    @property
    def workflows(self) -> Mapping[str, Workflow]:
        """The workflows it can run, by name."""
        return self._workflows

    @property
    def is_ready(self) -> bool:
        """Whether every node answers."""
        return all(node.is_ready for node in self._nodes.values())

    @property
    def in_flight(self) -> int:
        """Jobs accepted and not ended."""
        return self._dataflow.in_flight

    def now(self) -> float:
        """Seconds on this coordinator's clock."""
        return self._clock()

    async def run(self, job: Job, tell: OnProgress | None = None) -> JobResult:
        """Run a job to its end.  Raises LegoError; cancelling the await cancels the job.

        ValueError where its id is in flight: nothing is touched then, since it is another's.
        """
        if job.id in self._clients:
            raise ValueError(f"job {job.id} is already in flight")
        loop = asyncio.get_running_loop()
        client = _Client(job, loop.create_future(), tell)
        self._clients[job.id] = client
        if job.deadline_s is not None:
            left = max(0.0, job.deadline_s - self.now())
            client.timer = loop.call_later(left, self._feed, DeadlinePassed(job.id))
        try:
            self._feed(JobSubmitted(job, self._workflows[job.workflow]))
            return await client.future
        except asyncio.CancelledError:
            self._feed(CancelRequested(job.id, "the client left"))
            if client.future.done() and not client.future.cancelled():
                client.future.exception()  # taken note of: nobody waits for it any more
            raise
        finally:
            if client.timer is not None:
                client.timer.cancel()
            del self._clients[job.id]

    def states(self) -> list[JobState]:
        """The jobs in flight here."""
        states = self._dataflow.states(self.now())
        return [replace(state, is_paused=self._clients[state.id].is_paused) for state in states]

    async def pause(self, job_id: str, paused: bool) -> bool:
        """Let a job's lanes wait, or go on, wherever they are; False when it is not in flight here."""
        if (client := self._clients.get(job_id)) is None:
            return False
        client.is_paused = paused
        order = "pause" if paused else "resume"
        await asyncio.gather(*(self._order(client, order, key, node) for key, node in client.denoising.items()))
        return True

    async def _order(self, client: _Client, order: str, key: str, node: NodeHandle) -> None:
        """Give an order about a call to whichever replica has it, or is just getting it."""
        paused = client.is_paused
        for _ in range(ORDER_ATTEMPTS):
            if client.is_paused != paused or key not in client.denoising:
                return
            with contextlib.suppress(NodeLost):  # a replica has just died; its calls go elsewhere
                if any(lanes for _, lanes in await node.control(order, key)):
                    return
            await asyncio.sleep(ORDER_PAUSE_S)  # a call that goes elsewhere from here on brings the order along

    def cancel(self, job_id: str) -> bool:
        """Cancel a job; False when it is not in flight here."""
        if job_id not in self._clients:
            return False
        self._feed(CancelRequested(job_id, "an operator asked"))
        return True

    async def replicas(self) -> dict[str, str]:
        """The backbone replicas there are: id to the node they belong to."""
        return await list_replicas(self._nodes)

    async def drain(self, replica: str) -> int:
        """Move a replica's lanes elsewhere and have it replaced.  Raises NotFound."""
        return await drain(self._nodes, replica)

    async def templates(self, order: TemplateCommand) -> Mapping[str, int]:
        """What each backbone replica of a model answers about a template.  Raises NodeUnavailable."""
        return await ask_template(self._nodes, order)

    async def adapters(self, order: AdapterCommand) -> Mapping[str, Any]:
        """Do what an operator wants of a model's adapters.  Raises LegoError, NotFound where the model has none."""

        def ask(model: str, call: NodeCall) -> Awaitable[NodeResult]:
            return self._called(self._nodes[model, "adapters"], lambda: call, f"{order.verb} adapters")

        return await run_adapter_command(order, self._nodes, ask)

    def departed(self, replicas: Collection[str]) -> None:
        """Replicas are no longer to be used; what streams from them goes on elsewhere."""
        self._denoise.departed(replicas)

    def story(self, job_id: str) -> str:
        """What happened to a job."""
        return self._dataflow.story(job_id)

    def _feed(self, event: Event) -> None:
        for command in self._dataflow.handle(event, self.now()):
            self._obey(command)

    def _obey(self, command: Command) -> None:
        match command:
            case Dispatch(task=task):
                client = self._clients[task.job_id]
                client.calls[task.node] = asyncio.get_running_loop().create_task(self._run_task(task))
            case CancelTask(job_id=job_id, node=node):
                self._clients[job_id].calls[node].cancel()
            case Finish(job_id=job_id, outputs=outputs, stats=stats):
                client = self._clients[job_id]
                if client.denoised_s is not None:
                    self._tails.learn(client.job.workflow, self.now() - client.denoised_s)
                _resolve(client.future, result_of(client.job, outputs, stats))
            case Fail(job_id=job_id, error=error):
                _resolve(self._clients[job_id].future, error)

    async def _run_task(self, task: Task) -> None:
        try:
            answer = await self._ask(task)
        except LegoError as error:
            self._feed(TaskFailed(task.job_id, task.node, error))
        except Exception as error:
            failure = NodeError(f"Node {task.node} failed: {type(error).__name__}.")
            failure.__cause__ = error
            self._feed(TaskFailed(task.job_id, task.node, failure))
        else:
            if answer.error is not None:
                self._feed(TaskFailed(task.job_id, task.node, answer.error))
            else:
                self._feed(TaskDone(task.job_id, task.node, Ref(answer.value), answer.stats))

    async def _ask(self, task: Task) -> NodeResult:
        """A node's answer to a task, asked again where its replica was lost.  Raises LegoError."""
        component = KINDS[task.kind].component
        node = self._nodes[task.model, component]
        inputs = {name: value.handle if isinstance(value, Ref) else value for name, value in task.inputs.items()}
        client = self._clients[task.job_id]
        stream, key = client.job.stream, secrets.token_hex(8)
        tail_s = self._tails.of(client.job.workflow) if component == "backbone" else 0.0

        def call() -> NodeCall:
            left = None if task.deadline_s is None else task.deadline_s - self.now() - tail_s
            return NodeCall(task.kind, inputs, left, task.weight, stream, is_paused=client.is_paused, key=key)

        if component == "backbone":
            if stream.previews:
                self._previews.expect(task.model)
            client.denoising[key] = node
            try:
                return await self._denoise.run(node, call, lambda progress: self._told(task, progress))
            finally:
                del client.denoising[key]
                client.denoised_s = self.now()
        return await self._called(node, call, task.node)

    async def _called(self, node: NodeHandle, call: Callable[[], NodeCall], name: str) -> NodeResult:
        for _ in range(ATTEMPTS):
            try:
                return await node.run(call())
            except NodeLost:
                await asyncio.sleep(RETRY_PAUSE_S)
        raise NodeError(f"Node {name} lost its replica {ATTEMPTS} times; the call was given up.")

    def _told(self, task: Task, progress: LaneProgress) -> None:
        """Pass a lane's progress on to the job's client, if it listens."""
        client = self._clients.get(task.job_id)
        if client is None or client.tell is None or progress.is_starting or not progress.is_report:
            return
        tell = client.tell
        said = JobProgress(progress.lane, progress.step, progress.steps, progress.eta_s)
        if progress.preview is None or client.previews.get(progress.lane, 0) >= client.job.stream.previews:
            if client.job.stream.steps:
                tell(said)
            return
        # A lane that went on elsewhere may show a step again; nobody gets more previews than asked for.
        client.previews[progress.lane] = client.previews.get(progress.lane, 0) + 1

        async def with_image() -> None:
            try:
                image = await self._previews.image(task.model, progress.preview)
            except Exception:
                log.warning("a preview of job %s could not be made", task.job_id, exc_info=True)
            else:
                tell(replace(said, preview=image))

        client.calls[f"preview {progress.lane} {progress.step}"] = asyncio.ensure_future(with_image())


def _resolve(future: asyncio.Future[JobResult], outcome: JobResult | LegoError) -> None:
    if future.done():
        return
    if isinstance(outcome, LegoError):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
