"""What crosses between a coordinator and a replica: a call with its request, progress, and a result with its reply."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypeVar

from lego_serve.core.jobs.job import TaskStats
from lego_serve.core.jobs.progress import StreamOptions
from lego_serve.core.values import Array, NodeRequest
from lego_serve.errors import LegoError

ReplyT = TypeVar("ReplyT")


@dataclass(frozen=True, slots=True)
class NodeCall(Generic[ReplyT]):
    """One request to a node, with the seconds it has left, its tenant and the tenant's weight, and its job's id.

    ``reads_refs``: the request holds references to arrays, which the replica reads first.  ``keeps_arrays``: large
    arrays of the reply stay in the object store, and references to them come back.

    A denoising call may also say what the client listens to, where its lanes go on (checkpoints by
    lane), how many steps they run alone, which replicas to keep away from, whether they wait for an operator,
    and the key under which its work is counted and commands reach it.  ``hangs``: how often the call was given up
    before, since it hung.

    A call to a shared worker names the ``node`` it is for, and the ``next_nodes`` that its job needs there afterwards.
    ``target`` is the replica that it was placed on; it goes elsewhere where that one is gone.
    """

    request: NodeRequest[ReplyT]
    time_left_s: float | None = None
    weight: float = 1.0
    reads_refs: bool = False
    keeps_arrays: bool = False
    stream: StreamOptions = field(default_factory=StreamOptions)
    checkpoints: Mapping[int, bytes] = field(default_factory=dict)
    suspect_steps: int = 0
    avoid: frozenset[str] = frozenset()
    is_paused: bool = False
    key: str = ""
    hangs: int = 0
    tenant: str = "default"
    job_id: str | None = None
    node: str = ""
    next_nodes: frozenset[str] = frozenset()
    target: str = ""


@dataclass(frozen=True, slots=True)
class CallAccepted:
    """A replica has taken a streamed call."""

    replica: str


@dataclass(frozen=True, slots=True)
class LaneProgress:
    """How far a lane of a call is; ``preview`` holds latents (channels, height, width) of the image to be.

    ``is_starting``: the step is about to run, alone, or the lane to be made ready (PREPARING).
    Without ``is_report`` the client is not told.
    """

    lane: int
    step: int
    steps: int
    eta_s: float = 0.0
    preview: Array | None = None
    checkpoint: bytes | None = None
    is_starting: bool = False
    is_report: bool = True


@dataclass(frozen=True, slots=True)
class ReplicaDraining:
    """The replica is to be left: the checkpoints just sent are fresh, go on elsewhere."""


@dataclass(frozen=True, slots=True)
class NodeResult(Generic[ReplyT]):
    """The reply to a request and what it cost, or the error it met, or the ids of references that could not be read.

    ``replica``: the shared worker that answered.
    """

    value: ReplyT | None = None
    stats: TaskStats = field(default_factory=TaskStats)
    error: LegoError | None = None
    lost_refs: frozenset[str] = frozenset()
    replica: str = ""

    @property
    def reply(self) -> ReplyT:
        """The reply.  Raises the error where there is one."""
        if self.error is not None:
            raise self.error
        assert self.value is not None
        return self.value


@dataclass(frozen=True, slots=True)
class ControlNetResidual:
    """One residual of a ControlNet's step, an array; when the pass began and this was made, by the wall clock."""

    index: int
    value: Array
    began_s: float = 0.0
    made_s: float = 0.0


Message: TypeAlias = CallAccepted | LaneProgress | ReplicaDraining | ControlNetResidual | NodeResult[Any]
