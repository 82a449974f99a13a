"""What crosses between a coordinator and a node: a call and its answer, as plain values."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from lego_serve.core.job import TaskStats, Value
from lego_serve.errors import LegoError


@dataclass(frozen=True, slots=True)
class Call:
    """One task: what kind, its inputs by name, the seconds it has left and its tenant's weight."""

    kind: str
    inputs: Mapping[str, Value]
    time_left_s: float | None = None
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Answer:
    """A task's value and cost, or the error it met."""

    value: Value = None
    stats: TaskStats = field(default_factory=TaskStats)
    error: LegoError | None = None
