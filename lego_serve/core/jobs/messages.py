"""What crosses between a coordinator and a node: a call and its answer, as plain values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from lego_serve.core.jobs.job import TaskStats, Value
from lego_serve.core.jobs.progress import StreamOptions
from lego_serve.errors import LegoError


@dataclass(frozen=True, slots=True)
class NodeCall:
    """One task: what kind, its inputs by name, the seconds it has left and its tenant's weight.

    A denoising call may also say what the client listens to, where its lanes go on (checkpoints by
    lane), how many steps they run alone, which replicas to keep away from, whether they wait for an operator,
    and the key under which its work is counted and orders reach it.
    """

    kind: str
    inputs: Mapping[str, Value]
    time_left_s: float | None = None
    weight: float = 1.0
    stream: StreamOptions = field(default_factory=StreamOptions)
    checkpoints: Mapping[int, bytes] = field(default_factory=dict)
    suspect_steps: int = 0
    avoid: frozenset[str] = frozenset()
    is_paused: bool = False
    key: str = ""


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
    preview: Value = None
    checkpoint: bytes | None = None
    is_starting: bool = False
    is_report: bool = True


@dataclass(frozen=True, slots=True)
class ReplicaDraining:
    """The replica is to be left: the checkpoints just sent are fresh, go on elsewhere."""


@dataclass(frozen=True, slots=True)
class NodeResult:
    """A task's value and cost, or the error it met."""

    value: Value = None
    stats: TaskStats = field(default_factory=TaskStats)
    error: LegoError | None = None


@dataclass(frozen=True, slots=True)
class ControlNetResidual:
    """One residual of a ControlNet's step, an array; when the pass began and this was made, by the wall clock."""

    index: int
    value: Any
    began_s: float = 0.0
    made_s: float = 0.0


Message: TypeAlias = CallAccepted | LaneProgress | ReplicaDraining | ControlNetResidual | NodeResult
