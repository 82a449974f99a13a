"""What happened (events) and what to do (commands): the only words Dataflow speaks with its adapter."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from lego_serve.core.jobs.job import Job, Task, TaskStats, Value
from lego_serve.core.workflow.graph import Workflow
from lego_serve.errors import LegoError


@dataclass(frozen=True, slots=True)
class JobSubmitted:
    """A job was accepted; its workflow says what is to be done."""

    job: Job
    workflow: Workflow


@dataclass(frozen=True, slots=True)
class TaskDone:
    """A task ended well; its output may hold references to arrays elsewhere."""

    job_id: str
    node: str
    value: Value
    stats: TaskStats


@dataclass(frozen=True, slots=True)
class TaskFailed:
    """A task ended badly; the error says whose fault it was."""

    job_id: str
    node: str
    error: LegoError


@dataclass(frozen=True, slots=True)
class InputsLost:
    """A task could not read outputs of these nodes: who held them has died."""

    job_id: str
    node: str
    producers: frozenset[str]


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """The client left or an operator asked."""

    job_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class DeadlinePassed:
    """A job's deadline went by."""

    job_id: str


Event: TypeAlias = JobSubmitted | TaskDone | TaskFailed | InputsLost | CancelRequested | DeadlinePassed


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Run this task."""

    task: Task


@dataclass(frozen=True, slots=True)
class CancelTask:
    """Stop this task; its answer is no longer wanted."""

    job_id: str
    node: str


@dataclass(frozen=True, slots=True)
class Finish:
    """The job is done; these are its outputs."""

    job_id: str
    outputs: Mapping[str, Value]
    stats: Mapping[str, TaskStats]


@dataclass(frozen=True, slots=True)
class Fail:
    """The job has failed; nothing of it runs any more.  ``stats`` are of the nodes that were done or at work."""

    job_id: str
    error: LegoError
    stats: Mapping[str, TaskStats] = field(default_factory=dict)


Command: TypeAlias = Dispatch | CancelTask | Finish | Fail
