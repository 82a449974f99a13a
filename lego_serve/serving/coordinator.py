"""Runs jobs: carries out the dataflow's commands with node handles and turns what comes back into events.

One lives in each gateway process; it imports no torch.  Each job's state is in ``Dataflow``; here are
only its awaiting client, its timer and the calls that are out.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from lego_serve.core.dataflow import Dataflow
from lego_serve.core.events import (
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
from lego_serve.core.job import Job, JobResult, Picture, Ref, Task, TaskStats
from lego_serve.core.wire import Answer, Call
from lego_serve.core.workflow import KINDS, Workflow
from lego_serve.errors import LegoError, NodeError

ATTEMPTS = 3
RETRY_PAUSE_S = 0.5


class NodeLost(Exception):
    """The replica that had a call died before it answered; the call may be made again."""


class NodeHandle(Protocol):
    """One deployment, as the coordinator sees it."""

    async def run(self, call: Call) -> Answer:
        """Make a call.  Raises NodeLost; cancelling the await cancels the call."""
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
    timer: asyncio.TimerHandle | None = None
    calls: dict[str, asyncio.Task[None]] = field(default_factory=dict)


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

    async def run(self, job: Job) -> JobResult:
        """Run a job to its end.  Raises LegoError; cancelling the await cancels the job."""
        loop = asyncio.get_running_loop()
        client = _Client(job, loop.create_future())
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

    def cancel(self, job_id: str) -> bool:
        """Cancel a job; False when it is not in flight here."""
        if job_id not in self._clients:
            return False
        self._feed(CancelRequested(job_id, "an operator asked"))
        return True

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
                _resolve(client.future, _result(client.job, outputs, stats))
            case Fail(job_id=job_id, error=error):
                _resolve(self._clients[job_id].future, error)

    async def _run_task(self, task: Task) -> None:
        component = KINDS[task.kind].component
        node = self._nodes[task.model, component]
        inputs = {name: value.handle if isinstance(value, Ref) else value for name, value in task.inputs.items()}
        for attempt in range(1, ATTEMPTS + 1):
            left = None if task.deadline_s is None else task.deadline_s - self.now()
            try:
                answer = await node.run(Call(task.kind, inputs, left, task.weight))
            except NodeLost:
                if attempt == ATTEMPTS:
                    error = NodeError(f"Node {task.node} lost its replica {ATTEMPTS} times; the job was given up.")
                    self._feed(TaskFailed(task.job_id, task.node, error))
                    return
                await asyncio.sleep(RETRY_PAUSE_S)
            except LegoError as error:
                self._feed(TaskFailed(task.job_id, task.node, error))
                return
            except Exception as error:
                failure = NodeError(f"Node {task.node} failed: {type(error).__name__}.")
                failure.__cause__ = error
                self._feed(TaskFailed(task.job_id, task.node, failure))
                return
            else:
                if answer.error is not None:
                    self._feed(TaskFailed(task.job_id, task.node, answer.error))
                else:
                    self._feed(TaskDone(task.job_id, task.node, Ref(answer.value), answer.stats))
                return


def _resolve(future: asyncio.Future[JobResult], outcome: JobResult | LegoError) -> None:
    if future.done():
        return
    if isinstance(outcome, LegoError):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


def _result(job: Job, outputs: Mapping[str, Ref], stats: Mapping[str, TaskStats]) -> JobResult:
    value: Any = outputs["image"].handle
    first = job.inputs.get("seed")
    seed = first if isinstance(first, int) else 0
    pictures = tuple(
        Picture(p.shape[1], p.shape[0], p.tobytes(), (seed + i) % 2**32) for i, p in enumerate(value["pixels"])
    )
    return JobResult(
        pictures,
        sum(s.queue_s for s in stats.values()),
        {name: s.run_s for name, s in stats.items()},
        sum(s.cache_hit for s in stats.values()),
        stats,
    )
