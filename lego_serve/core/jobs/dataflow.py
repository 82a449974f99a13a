"""The state machine of the jobs in flight at one coordinator: events in, commands out, no clock.

Rules.  A task is dispatched only when every node it names is done, and exactly once, unless an output is lost
before it was used: then the node that made it runs again, and after it the one that missed it.  Nodes that wait
for nothing are dispatched together.  A job ends exactly once, with Finish or with Fail; before Fail every task
still out is cancelled.  Events about jobs or tasks that have ended are late answers and change nothing.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from lego_serve.core.jobs.events import (
    CancelRequested,
    CancelTask,
    Command,
    DeadlinePassed,
    Dispatch,
    Event,
    Fail,
    Finish,
    InputsLost,
    JobSubmitted,
    TaskDone,
    TaskFailed,
)
from lego_serve.core.jobs.job import Job, JobState, Task, TaskStats, Value
from lego_serve.core.scheduling.retry import JOB_RERUNS
from lego_serve.core.workflow.graph import Node, Source, Workflow
from lego_serve.errors import DeadlineExceeded, JobCancelled, LegoError, NodeError, RequestError, with_param

STORIES_KEPT = 256


@dataclass(slots=True)
class _Running:
    """One job in flight."""

    job: Job
    workflow: Workflow
    waiting: dict[str, set[str]]  # node -> the nodes it still waits for
    out: set[str] = field(default_factory=set)
    began: dict[str, float] = field(default_factory=dict)  # node -> when it was dispatched last
    values: dict[str, Value] = field(default_factory=dict)
    stats: dict[str, TaskStats] = field(default_factory=dict)
    reruns: int = 0

    @property
    def nodes(self) -> dict[str, str]:
        """State of each node, in workflow order."""
        return {
            name: "running" if name in self.out else "done" if name in self.values else "waiting"
            for name in self.workflow.nodes
        }


class Dataflow:
    """All jobs in flight at one coordinator."""

    def __init__(self) -> None:
        self._jobs: dict[str, _Running] = {}
        self._stories: dict[str, list[str]] = {}
        self._ended: deque[str] = deque()

    @property
    def in_flight(self) -> int:
        """Jobs accepted and not ended."""
        return len(self._jobs)

    def handle(self, event: Event, now: float) -> list[Command]:
        """Take one event and answer what to do.  ValueError when a job is submitted twice."""
        if isinstance(event, JobSubmitted):
            return self._submit(event, now)
        running = self._jobs.get(event.job_id)
        if running is None:
            return []
        self._tell(event.job_id, now, _words(event))
        match event:
            case TaskDone(node=node) if node in running.out:
                return self._done(running, event, now)
            case TaskFailed(node=node, error=error) if node in running.out:
                running.out.discard(node)
                return self._fail(running, _about_input(error, running.workflow.nodes[node]), now)
            case InputsLost(node=node) if node in running.out:
                return self._run_again(running, event, now)
            case CancelRequested(reason=reason):
                return self._fail(running, JobCancelled(f"The job was cancelled: {reason}."), now)
            case DeadlinePassed():
                return self._fail(running, DeadlineExceeded("The job's deadline passed before it was done."), now)
        return []

    def states(self, now: float) -> list[JobState]:
        """The jobs in flight as they are now."""
        return [
            JobState(job_id, running.job.workflow, running.job.tenant, now - running.job.submitted_s, running.nodes)
            for job_id, running in self._jobs.items()
        ]

    def story(self, job_id: str) -> tuple[str, ...]:
        """What happened to a job, one line each; kept for a while after its end, empty for an unknown job."""
        return tuple(self._stories.get(job_id, ()))

    def check(self) -> None:
        """Raise AssertionError, with the story, when an invariant is broken."""
        for job_id, running in self._jobs.items():
            story = "\n".join(self.story(job_id))
            nodes = set(running.workflow.nodes)
            states = [set(running.waiting), running.out, set(running.values)]
            assert set.union(*states) == nodes, f"{job_id}: nodes lost\n{story}"
            assert sum(map(len, states)) == len(nodes), f"{job_id}: a node is in two states\n{story}"
            assert running.out, f"{job_id}: in flight with nothing out\n{story}"
            for node, missing in running.waiting.items():
                assert missing, f"{job_id}: {node} waits for nothing\n{story}"
                assert not missing & set(running.values), f"{job_id}: {node} waits for what is done\n{story}"

    def _submit(self, event: JobSubmitted, now: float) -> list[Command]:
        job, workflow = event.job, event.workflow
        if job.id in self._jobs:
            raise ValueError(f"job {job.id} is already in flight")
        waiting = {name: set(node.needs) for name, node in workflow.nodes.items()}
        running = _Running(job, workflow, waiting)
        self._jobs[job.id] = running
        self._stories[job.id] = []
        self._tell(job.id, now, f"submitted to {workflow.name}")
        return self._dispatch_ready(running, now)

    def _dispatch_ready(self, running: _Running, now: float) -> list[Command]:
        ready = [name for name, missing in running.waiting.items() if not missing]
        commands: list[Command] = []
        for name in ready:
            del running.waiting[name]
            running.out.add(name)
            running.began[name] = now
            self._tell(running.job.id, now, f"dispatch {name}")
            commands.append(Dispatch(_task(running, running.workflow.nodes[name])))
        return commands

    def _done(self, running: _Running, event: TaskDone, now: float) -> list[Command]:
        running.out.discard(event.node)
        running.values[event.node] = event.value
        running.stats[event.node] = replace(event.stats, began_s=running.began[event.node], ended_s=now)
        for missing in running.waiting.values():
            missing.discard(event.node)
        if running.waiting or running.out:
            return self._dispatch_ready(running, now)
        outputs = {name: running.values[source.node] for name, source in running.workflow.outputs.items()}
        self._end(running, now, "finished")
        return [Finish(running.job.id, outputs, dict(running.stats))]

    def _run_again(self, running: _Running, event: InputsLost, now: float) -> list[Command]:
        """Run the nodes again whose outputs were lost; who waits for them, or missed them, waits anew."""
        running.reruns += 1
        if running.reruns > JOB_RERUNS:
            running.out.discard(event.node)
            lost = ", ".join(sorted(event.producers))
            return self._fail(running, NodeError(f"Outputs of {lost} were lost too often; the job was given up."), now)
        lost_now = {node for node in event.producers if node in running.values}
        for node in lost_now:
            del running.values[node], running.stats[node]
            running.waiting[node] = set()
        running.out.discard(event.node)
        running.waiting[event.node] = set()
        for node, missing in running.waiting.items():
            missing |= running.workflow.nodes[node].needs - set(running.values)
        return self._dispatch_ready(running, now)

    def _fail(self, running: _Running, error: LegoError, now: float) -> list[Command]:
        commands: list[Command] = [CancelTask(running.job.id, node) for node in sorted(running.out)]
        self._end(running, now, f"failed: {error.code}")
        at_work = running.began.keys() - running.stats.keys() - running.waiting.keys()  # and what failed
        cut_short = {node: TaskStats(began_s=running.began[node], ended_s=now) for node in sorted(at_work)}
        return [*commands, Fail(running.job.id, error, running.stats | cut_short)]

    def _end(self, running: _Running, now: float, how: str) -> None:
        job_id = running.job.id
        del self._jobs[job_id]
        self._tell(job_id, now, how)
        self._ended.append(job_id)
        while len(self._ended) > STORIES_KEPT:
            old = self._ended.popleft()
            if old not in self._jobs:
                self._stories.pop(old, None)

    def _tell(self, job_id: str, now: float, what: str) -> None:
        self._stories[job_id].append(f"{now:.6f} {what}")


def _about_input(error: LegoError, node: Node) -> LegoError:
    """A node's complaint about an argument, about the workflow's input that it came from; about none if from none."""
    if not isinstance(error, RequestError) or error.param is None or error.param not in node.arguments:
        return error
    source = node.arguments[error.param]
    return with_param(error, source.output if isinstance(source, Source) and source.node == "inputs" else None)


def _words(event: Event) -> str:
    match event:
        case TaskDone(node=node):
            return f"done {node}"
        case TaskFailed(node=node, error=error):
            return f"failed {node}: {error.code}"
        case InputsLost(node=node, producers=producers):
            return f"{node} lost its inputs from {', '.join(sorted(producers))}"
        case CancelRequested(reason=reason):
            return f"cancel requested: {reason}"
    return type(event).__name__


def _task(running: _Running, node: Node) -> Task:
    job = running.job
    inputs: dict[str, object] = {}
    for name, argument in node.arguments.items():
        if not isinstance(argument, Source):
            inputs[name] = argument
        elif argument.node != "inputs":
            inputs[name] = running.values[argument.node]
        elif _given(job.inputs, argument.output):
            inputs[name] = job.inputs[argument.output]
    if (share := job.tier.shares.get(node.name, 1.0)) != 1.0:
        inputs["work_share"] = share
    return Task(job.id, node.name, node.kind, node.model, inputs, job.deadline_s, job.weight, job.tenant)


def _given(inputs: Mapping[str, object], name: str) -> bool:
    return inputs.get(name) is not None
