"""Makes a job's node calls, retries lost ones, returns events."""

import logging
import random
import secrets
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from lego_serve.core.costs import PostDenoiseTime
from lego_serve.core.jobs.events import Event, InputsLost, TaskDone, TaskFailed
from lego_serve.core.jobs.job import Job, Task
from lego_serve.core.jobs.journal import Journal
from lego_serve.core.jobs.messages import LaneProgress, NodeCall, NodeResult
from lego_serve.core.jobs.poison import PoisonBook, fingerprint
from lego_serve.core.jobs.recovery import Recovery
from lego_serve.core.scheduling.retry import NODE_CALL, RetryPolicy
from lego_serve.core.values import NodeRequest, refs_of
from lego_serve.core.workflow.graph import KINDS, Source, Workflow, is_backbone
from lego_serve.errors import LegoError, NodeError, PoisonError
from lego_serve.serving.coordinator.denoise_calls import DenoiseStreams, again_as, consume, retry_of
from lego_serve.serving.coordinator.job_client import JobClient, NodeHandle
from lego_serve.serving.coordinator.job_pools import JobPools
from lego_serve.serving.coordinator.placement import Placement
from lego_serve.serving.coordinator.previews import Previews
from lego_serve.serving.coordinator.retries import Retries
from lego_serve.serving.errors import NodeHung, NodeLost

ReplyT = TypeVar("ReplyT")
log = logging.getLogger("lego_serve.coordinator")
QUARANTINED = "model_quarantined"  # the code of an error of shared workers


class TaskCalls:
    """The calls of one coordinator; ``checkpoint_every_steps`` by model."""

    def __init__(
        self,
        nodes: Mapping[tuple[str, str], NodeHandle],
        clock: Callable[[], float],
        checkpoint_every_steps: Mapping[str, int],
        retry: RetryPolicy = NODE_CALL,
        journal: Journal | None = None,
        pools: Placement | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._journal = journal or Journal()
        self._pools: Placement = pools or JobPools({}, {}, clock, self._journal)
        self._nodes, self._clock, self._retry = nodes, clock, retry
        self._retries, self._poison = Retries(clock, chance), PoisonBook()
        self._checkpoint_every_steps = checkpoint_every_steps
        self._denoise = DenoiseStreams(self._retries)
        self._previews = Previews(nodes)
        self._post_denoise = PostDenoiseTime()

    def begin(self, job: Job) -> None:
        """A job comes.  Raises PoisonError for one that has ended replicas, with any seed, less than an hour ago."""
        self._retries.request_begins()
        if not self._poison:
            return
        left_s = self._poison.left_s(fingerprint(job.workflow, job.inputs), self._clock())
        if left_s:
            message = f"This request has made the model server fail; it is refused for {left_s / 60:.0f} minutes more."
            raise PoisonError(message)

    def departed(self, replicas: Collection[str]) -> None:
        """Move on what streams from replicas that are no longer to be used."""
        self._denoise.departed(replicas)

    def leave(self, client: JobClient | None) -> None:
        """Have the denoising of a job, unless it has ended, go on where the job is placed now."""
        self._denoise.leave(() if client is None else client.recoveries.values())

    def job_finished(self, client: JobClient) -> None:
        """Learn how long a job took after its denoising."""
        if client.denoised_s is not None:
            self._post_denoise.learn(client.job.workflow, self._clock() - client.denoised_s)

    async def run(self, task: Task, client: JobClient, workflow: Workflow) -> Event:
        """Run a task; returns what came of it."""
        node = f"{task.model}.{workflow.nodes[task.node].component}"
        try:
            result = await self._result(task, client, workflow)
        except PoisonError as error:
            return TaskFailed(task.job_id, task.node, self._blamed(task, client.job, node, error))
        except LegoError as error:
            return TaskFailed(task.job_id, task.node, error)
        except Exception as error:
            failure = NodeError(f"Node {task.node} failed: {type(error).__name__}.")
            failure.__cause__ = error
            return TaskFailed(task.job_id, task.node, failure)
        self._poison.answered(node)
        for move in result.stats.moves:
            why = move.words(result.replica)
            self._journal.decide(move.kind, move.model, why, self._clock(), job=task.job_id, node=move.model)
        if result.error is not None:
            self._note_quarantine(task, result.error)
            return TaskFailed(task.job_id, task.node, result.error)
        if result.lost_refs:
            await self._retries.turn()  # those who made them are called again
            return InputsLost(task.job_id, task.node, _producers(task, workflow, result.lost_refs))
        return TaskDone(task.job_id, task.node, result.value, result.stats)

    async def ask(
        self, model: str, component: str, request: NodeRequest[ReplyT], tenant: str = "default", weight: float = 1.0
    ) -> ReplyT:
        """Send a request that belongs to no job, as a tenant's work; return the reply.  Raises LegoError."""
        node = self._nodes[model, component]

        async def attempt(avoid: frozenset[str]) -> NodeResult[ReplyT]:
            def call() -> NodeCall[ReplyT]:
                return NodeCall(request, weight=weight, tenant=tenant, avoid=avoid)

            return await self._until_answered(node, call, component)

        result = await self._where_it_loads(node, model, attempt, None)
        return result.reply

    async def _result(self, task: Task, client: JobClient, workflow: Workflow) -> NodeResult[Any]:
        component = workflow.nodes[task.node].component
        node = self._nodes[task.model, component]
        request: NodeRequest[Any] = KINDS[task.kind].input(**task.inputs)
        is_denoising = is_backbone(component)
        reads_refs = next(refs_of(request), None) is not None
        # What the client gets comes here anyway.
        keeps_arrays = task.node not in {source.node for source in workflow.outputs.values()}
        key = secrets.token_hex(8) if is_denoising else ""
        next_nodes = self._next_nodes(task, workflow) if node.hosted else frozenset()
        after_s = self._post_denoise.of(client.job.workflow) if is_denoising else 0.0

        def call(avoid: frozenset[str]) -> NodeCall[Any]:
            left_s = None if task.deadline_s is None else task.deadline_s - self._clock() - after_s
            return NodeCall(
                request,
                left_s,
                task.weight,
                reads_refs=reads_refs,
                keeps_arrays=keeps_arrays,
                stream=client.job.stream,
                is_paused=client.is_paused,
                key=key,
                tenant=task.tenant,
                job_id=task.job_id,
                next_nodes=next_nodes,
                target=self._pools.target(task.job_id) if node.hosted else "",
                avoid=avoid,
            )

        def on_retry() -> None:
            self._journal.on_retry(task.kind, task.model)

        if node.hosted:
            await self._pools.bound(task.job_id)
        if not is_denoising:

            async def attempt(avoid: frozenset[str]) -> NodeResult[Any]:
                return await self._until_answered(node, lambda: call(avoid), task.node, on_retry)

            return await self._where_it_loads(node, task.model, attempt, task.job_id)
        if client.job.stream.previews:
            self._previews.expect(task.model)
        client.denoising[key] = node
        recovery = client.recovery(task.node, self._checkpoint_every_steps[task.model])
        recovery.on_change = lambda change, replica: self._journal.note_attempt(
            task.job_id, task.node, change, replica, self._clock()
        )

        async def attempt_steps(avoid: frozenset[str]) -> NodeResult[Any]:
            return await self._denoise.run(
                node, lambda: call(avoid), lambda progress: self._report(client, task, progress), recovery, on_retry
            )

        redone = recovery.steps_redone
        try:
            return await self._where_it_loads(node, task.model, attempt_steps, task.job_id)
        finally:
            self._journal.on_redone(task.model, recovery.steps_redone - redone)
            del client.denoising[key]
            client.denoised_s = self._clock()

    async def _where_it_loads(
        self,
        node: NodeHandle,
        model: str,
        attempt: Callable[[frozenset[str]], Awaitable[NodeResult[ReplyT]]],
        job_id: str | None,
    ) -> NodeResult[ReplyT]:
        """Make a call; while a shared worker could not load the model, again elsewhere, as long as another one may."""
        tried: set[str] = set()
        while True:
            result = await attempt(frozenset(tried))
            error = result.error
            if error is None or error.code != QUARANTINED or result.replica in {"", *tried}:
                return result
            tried.add(result.replica)
            for_s = error.retry_after_s or 0.0
            if not self._pools.held_back(node.hosted, result.replica, for_s, job_id):
                return result
            reason = error.operator_reason or error.message
            why = f"{reason}; {result.replica[-4:]} gets no call for it for {for_s:.0f} s"
            self._journal.decide("quarantine", model, why, self._clock(), job=job_id or "")
            if job_id is not None:
                await self._pools.bound(job_id)

    def _note_quarantine(self, task: Task, error: LegoError) -> None:
        """Note that a job failed since a worker holds back what it could not load."""
        if error.code == QUARANTINED:
            reason = error.operator_reason or error.message
            self._journal.decide("quarantine", task.model, reason, self._clock(), job=task.job_id)

    def _next_nodes(self, task: Task, workflow: Workflow) -> frozenset[str]:
        """Return the nodes of shared workers that a job calls after this task."""
        followers = (workflow.nodes[name] for name in workflow.followers(task.node))
        return frozenset({self._nodes[each.model, each.component].hosted for each in followers} - {""})

    def _report(self, client: JobClient, task: Task, progress: LaneProgress) -> None:
        client.keep(task.node, progress)
        if not progress.is_starting:
            step, steps, eta_s = progress.step, progress.steps, progress.eta_s
            self._pools.progressed(task.job_id, step, steps)
            self._journal.history.note_step(task.job_id, progress.lane, step, steps, eta_s, self._clock())
        client.report(progress, lambda: self._previews.image(task.model, progress.preview))

    async def _until_answered(
        self,
        node: NodeHandle,
        make: Callable[[], NodeCall[ReplyT]],
        name: str,
        on_retry: Callable[[], None] = lambda: None,
    ) -> NodeResult[ReplyT]:
        """Make a call of no steps until it is answered: once lost it is a suspect, and runs alone.

        ``on_retry`` is called as it is made again.
        """
        recovery = Recovery(1)
        again = recovery.begin()
        for pause_s in (*self._retries.pauses(self._retry), None):
            call, is_hung = again_as(make(), again), False
            try:
                result = await (consume(node, call, recovery) if call.suspect_steps else node.run(call))
            except NodeHung:  # it has waited long enough
                decision, is_hung = recovery.after_hang(), True
            except NodeLost:
                decision = recovery.after_loss()
            else:
                if result is not None:
                    return replace(result, stats=replace(result.stats, attempts=recovery.attempts + 1))
                decision = recovery.after_move()
            again = retry_of(decision)
            if pause_s is not None:
                await self._retries.turn(0.0 if is_hung else pause_s)
                on_retry()
        raise NodeError(f"Node {name} lost its replica {self._retry.attempts} times; the call was given up.")

    def _blamed(self, task: Task, job: Job, node: str, error: PoisonError) -> LegoError:
        """Return what a job ends with that has ended replicas: its own fault, unless the node fails whoever asks."""
        mark = fingerprint(job.workflow, job.inputs)
        if self._poison.blame(node, mark, self._clock()):
            log.warning("job %s is refused: replicas of %s died of it (%s)", job.id, node, mark[:12])
            return error
        log.error("replicas of %s die of whatever they are asked; job %s is not to blame", node, job.id)
        return NodeError(f"Node {task.node} fails whatever it is asked; the server's logs have more.")


def _producers(task: Task, workflow: Workflow, lost: frozenset[str]) -> frozenset[str]:
    """The nodes whose outputs, as they were given to a task, hold references that are lost."""
    return frozenset(
        source.node
        for name, source in workflow.nodes[task.node].arguments.items()
        if isinstance(source, Source) and any(ref.id in lost for ref in refs_of(task.inputs.get(name)))
    )
