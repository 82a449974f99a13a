"""Runs jobs: carries out the dataflow's commands with node handles and turns what comes back into events.

One lives in each gateway process; it imports no torch.  Each job's state is in ``Dataflow``; here are
only its awaiting client, its timer and the calls that are out.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

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
)
from lego_serve.core.jobs.forecast import Forecast
from lego_serve.core.jobs.job import Job, JobResult, JobState, Task
from lego_serve.core.jobs.journal import Journal
from lego_serve.core.jobs.ports import CheckpointKeeper, OnProgress, Scaling
from lego_serve.core.nodes.messages import TextEncodeInput
from lego_serve.core.nodes.requests import (
    AdapterAdminRequest,
    ModelAdapters,
    PauseCall,
    SeenReplica,
    TemplateCommand,
    process_of,
)
from lego_serve.core.scheduling.autoscaling import ReplicaBounds
from lego_serve.core.scheduling.retry import CALL_COMMAND, NODE_CALL, RetryPolicy
from lego_serve.core.scheduling.scale_board import ScaleBoard, pin_reason
from lego_serve.core.workflow.graph import Workflow
from lego_serve.core.workflow.tiers import NO_BOOKS, Books, at_tier
from lego_serve.errors import NotFound
from lego_serve.serving.coordinator.adapter_admin import run_adapter_request
from lego_serve.serving.coordinator.broadcast import ask_about_template, drain, list_replicas, report_loads
from lego_serve.serving.coordinator.dispatched_pools import placement
from lego_serve.serving.coordinator.dispatcher import Dispatcher
from lego_serve.serving.coordinator.job_client import JobClient, NodeHandle
from lego_serve.serving.coordinator.results import result_of
from lego_serve.serving.coordinator.task_calls import TaskCalls
from lego_serve.serving.errors import NodeLost

ReplyT = TypeVar("ReplyT")
log = logging.getLogger("lego_serve.coordinator")


@dataclass(frozen=True, slots=True)
class CheckTimes:
    """When to check the dataflow: ``idle_s`` after the last event, ``at_most_s`` after the first unchecked one."""

    idle_s: float = 1.0
    at_most_s: float = 30.0


class Coordinator:
    """Runs the jobs of one process over shared nodes, keyed by (model, component)."""

    def __init__(
        self,
        nodes: Mapping[tuple[str, str], NodeHandle],
        workflows: Mapping[str, Workflow],
        clock: Callable[[], float],
        checkpoint_every_steps: Mapping[str, int],
        on_check: Callable[[bool], None] = lambda is_sound: None,
        retry: RetryPolicy = NODE_CALL,
        checks: CheckTimes = CheckTimes(),
        is_reachable: Callable[[], bool] = lambda: True,
        apps: Mapping[tuple[str, str], str] = {},
        *,
        is_alone: bool = True,
        dispatchers: Sequence[Dispatcher] = (),
        scaling: Scaling | None = None,
        books: Books = NO_BOOKS,
    ) -> None:
        """``checkpoint_every_steps`` by model; ``on_check`` gets the result of each check of the dataflow.

        ``is_reachable``: whether the cluster that the nodes run on can be reached.  ``apps``: the application of each
        node, for placing jobs; ``is_alone``: no other coordinator sends jobs to them, else ``dispatchers`` place them.
        Without ``scaling`` no number of replicas is known, and none can be pinned.  ``books``: the tiers of each model.
        """
        self._is_reachable, self._scaling, self._books = is_reachable, scaling, books
        self._nodes, self._workflows, self._clock, self._on_check = nodes, workflows, clock, on_check
        self._journal = Journal()
        hosted = {key: node.hosted for key, node in nodes.items()}
        self.pools = placement(apps, hosted, clock, self._journal, is_alone=is_alone, dispatchers=dispatchers)
        self._calls = TaskCalls(nodes, clock, checkpoint_every_steps, retry, self._journal, self.pools)
        self.pools.on_moved = lambda job_id: self._calls.leave(self._clients.get(job_id))
        self._checks = checks
        self._next_check: asyncio.TimerHandle | None = None
        self._check_due_s: float | None = None  # by the loop's clock; None while no event came since the last check
        self._dataflow = Dataflow()
        self._clients: dict[str, JobClient] = {}

    @property
    def workflows(self) -> Mapping[str, Workflow]:
        """The workflows it can run, by name."""
        return self._workflows

    @property
    def is_ready(self) -> bool:
        """Whether every node has answered and their cluster can be reached."""
        return self._is_reachable() and all(node.is_ready for node in self._nodes.values())

    @property
    def in_flight(self) -> int:
        """Jobs accepted and not ended."""
        return self._dataflow.in_flight

    @property
    def journal(self) -> Journal:
        """What happened to its jobs, and what was decided."""
        return self._journal

    def now(self) -> float:
        """Seconds on this coordinator's clock."""
        return self._clock()

    async def run(
        self, job: Job, on_progress: OnProgress | None = None, checkpoints: CheckpointKeeper | None = None
    ) -> JobResult:
        """Run a job to its end.  Raises LegoError; cancelling the await cancels the job.

        ValueError where its id is in flight: nothing is touched then, since it is another's.
        """
        if job.id in self._clients:
            raise ValueError(f"job {job.id} is already in flight")
        self._calls.begin(job)
        loop = asyncio.get_running_loop()
        client = JobClient(job, loop.create_future(), on_progress, checkpoints)
        self._clients[job.id] = client
        if job.end_s is not None:
            client.timer = loop.call_later(max(0.0, job.end_s - self.now()), self._feed, DeadlinePassed(job.id))
        result = None
        try:
            self.pools.add(job, self._workflow_of(job))
            self._feed(JobSubmitted(job, self._workflow_of(job)))
            result = await client.future
            return result
        except asyncio.CancelledError:
            self._feed(CancelRequested(job.id, "the client left"))
            if client.future.done() and not client.future.cancelled():
                client.future.exception()  # taken note of: nobody waits for it any more
            raise
        finally:
            if client.timer is not None:
                client.timer.cancel()
            del self._clients[job.id]
            self.pools.end(job.id, result)

    async def offer(self, job: Job) -> Forecast | None:
        """Say when a job would end, and keep its place if that is in time; None where that cannot be known yet."""
        return await self.pools.offer(job, self._workflow_of(job))

    def withdraw(self, job_id: str) -> None:
        """A job that was offered does not run after all."""
        self.pools.withdraw(job_id)

    def states(self) -> list[JobState]:
        """The jobs in flight here."""
        states = self._dataflow.states(self.now())
        return [replace(state, is_paused=self._clients[state.id].is_paused) for state in states]

    async def pause(self, job_id: str, paused: bool) -> bool:
        """Pause or resume a job's lanes; False when it is not in flight here."""
        if (client := self._clients.get(job_id)) is None:
            return False
        client.is_paused = paused
        self._journal.history.note_paused(job_id, paused, self.now())
        self._decide("pause" if paused else "resume", client.job)
        await asyncio.gather(*(self._pause_call(client, key, node) for key, node in client.denoising.items()))
        return True

    async def _pause_call(self, client: JobClient, key: str, node: NodeHandle) -> None:
        """Pause or resume a call at whichever replica has it, or is just getting it."""
        command = PauseCall(key, client.is_paused)
        for pause_s in CALL_COMMAND.pauses():
            if client.is_paused != command.is_paused or key not in client.denoising:
                return
            with contextlib.suppress(NodeLost):  # a replica has just died; its calls go elsewhere
                if any(lanes for _, lanes in await node.control(command)):
                    return
            await asyncio.sleep(pause_s)  # a call that goes elsewhere from here on brings the command along

    def cancel(self, job_id: str) -> bool:
        """Cancel a job; False when it is not in flight here."""
        if job_id not in self._clients:
            return False
        self._decide("cancel", self._clients[job_id].job)
        self._feed(CancelRequested(job_id, "an operator asked"))
        return True

    async def replicas(self) -> dict[str, str]:
        """The backbone replicas there are: id to the node they belong to."""
        return await list_replicas(self._nodes)

    async def drain(self, replica: str) -> int:
        """Move a replica's lanes elsewhere and have it replaced.  Raises NotFound."""
        moved = await drain(self._nodes, replica)
        why = f"an operator asked; its {moved} calls go on elsewhere from fresh checkpoints"
        self._journal.decide("drain", process_of(replica), why, self.now(), by="operator")
        return moved

    async def loads(self) -> list[SeenReplica]:
        """Return the replicas that answer soon, with what they have in hand."""
        return await report_loads(self._nodes)

    async def scales(self) -> ScaleBoard:
        """Return how many replicas each node is to have."""
        return ScaleBoard() if self._scaling is None else await self._scaling.read()

    async def pin(self, node: str, bounds: ReplicaBounds | None) -> None:
        """Pin the number of a node's replicas.  Raises NotFound, NodeUnavailable."""
        if self._scaling is None:
            raise NotFound(f"The replicas of `{node}` are not counted here.", code="node_not_found")
        await self._scaling.pin(node, bounds)
        self._journal.decide("pin", node, pin_reason(bounds), self.now(), by="operator", node=node)

    def _decide(self, kind: str, job: Job) -> None:
        self._journal.decide(kind, job.workflow, "an operator asked", self.now(), by="operator", job=job.id)

    async def templates(self, model: str, request: TemplateCommand[ReplyT]) -> Mapping[str, ReplyT]:
        """Return the reply of each backbone replica of a model.  Raises NodeUnavailable."""
        return await ask_about_template(self._nodes, model, request)

    async def check_prompt(self, model: str, prompt: str, tenant: str, weight: float) -> None:
        """Raise RequestError for a prompt that a model's text encoder refuses; other errors are LegoErrors too."""
        await self._calls.ask(model, "text_encoder", TextEncodeInput(prompt), tenant, weight)

    async def adapters(self, model: str | None, request: AdapterAdminRequest) -> ModelAdapters:
        """Carry out a request about a model's adapters.  Raises LegoError, NotFound if the model has none."""
        return await run_adapter_request(model, request, self._nodes, self._calls.ask)

    def departed(self, replicas: Collection[str]) -> None:
        """Replicas are no longer to be used; what streams from them goes on elsewhere."""
        self._journal.note_departed(replicas, self.now())
        self.pools.left(replicas)
        self._calls.departed(replicas)

    def story(self, job_id: str) -> tuple[str, ...]:
        """What happened to a job, one line each; empty for one that is not known, or no longer."""
        return self._dataflow.story(job_id)

    def _feed(self, event: Event) -> None:
        now = self.now()
        commands = self._dataflow.handle(event, now)
        self._journal.history.note(event, commands, now)
        for command in commands:
            self._carry_out(command)
        loop = asyncio.get_running_loop()
        if self._next_check is not None:
            self._next_check.cancel()
        if self._check_due_s is None:
            self._check_due_s = loop.time() + self._checks.at_most_s
        due_s = min(loop.time() + self._checks.idle_s, self._check_due_s)
        self._next_check = loop.call_at(due_s, self._check)

    def _check(self) -> None:
        """Check the dataflow's invariants: while idle, and under steady load now and then."""
        self._next_check = self._check_due_s = None
        try:
            self._dataflow.check()
        except AssertionError:
            log.exception("the dataflow is not as it should be")
            self._on_check(False)
        else:
            self._on_check(True)

    def _carry_out(self, command: Command) -> None:
        match command:
            case Dispatch(task=task):
                client = self._clients[task.job_id]
                client.calls[task.node] = asyncio.get_running_loop().create_task(self._run_task(task))
            case CancelTask(job_id=job_id, node=node):
                self._clients[job_id].calls[node].cancel()
            case Finish(job_id=job_id, outputs=outputs, stats=stats):
                client = self._clients[job_id]
                self._calls.job_finished(client)
                client.resolve(result_of(client.job, outputs, stats))
            case Fail(job_id=job_id, error=error, stats=stats):
                error.node_stats = stats
                self._clients[job_id].resolve(error)

    async def _run_task(self, task: Task) -> None:
        client = self._clients[task.job_id]
        self._feed(await self._calls.run(task, client, self._workflow_of(client.job)))

    def _workflow_of(self, job: Job) -> Workflow:
        """Return a job's workflow, on the checkpoint of its tier where that has one."""
        return at_tier(self._workflows[job.workflow], job.inputs, self._books)
