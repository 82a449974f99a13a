"""The values that travel: a job, a task of it, and a result.

All times are seconds on the clock of the coordinator that owns the job.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from lego_serve.core.addons import AdapterStats, ControlNetStats
from lego_serve.core.editing.reuse import ReuseStats
from lego_serve.core.jobs.progress import StreamOptions
from lego_serve.core.tiers.book import TierChoice, TierUse

Value: TypeAlias = object


@dataclass(frozen=True, slots=True)
class Job:
    """One accepted request: a workflow by name, values for its inputs, and when it must be done.

    ``deadline_s`` is the caller's and counts in the order of work; at ``latest_s`` the server gives the job up.
    ``tier``: what it runs in, settled when it was accepted.
    """

    id: str
    workflow: str
    inputs: Mapping[str, Value]
    submitted_s: float
    deadline_s: float | None = None
    tenant: str = "default"
    weight: float = 1.0
    stream: StreamOptions = field(default_factory=StreamOptions)
    latest_s: float | None = None
    tier: TierChoice = field(default_factory=TierChoice)

    @property
    def end_s(self) -> float | None:
        """When it ends at the latest; None where nothing bounds it."""
        bounds = [bound for bound in (self.deadline_s, self.latest_s) if bound is not None]
        return min(bounds, default=None)


@dataclass(frozen=True, slots=True)
class Task:
    """A node of a job whose inputs are all known: values of the job, and outputs of the nodes before it."""

    job_id: str
    node: str
    kind: str
    model: str
    inputs: Mapping[str, Value]
    deadline_s: float | None = None
    weight: float = 1.0
    tenant: str = "default"


@dataclass(frozen=True, slots=True)
class ModelMove:
    """A model that a shared worker has loaded, in so many seconds, or evicted for another one; the bytes it takes.

    ``via_host``: its weights came from host memory, or stay there.  ``leaves_host``: they were there, and are dropped.
    """

    model: str
    size_bytes: int
    seconds: float = 0.0
    evicted_for: str = ""
    via_host: bool = False
    leaves_host: bool = False

    @property
    def kind(self) -> str:
        """The decision that it is."""
        return "evict" if self.evicted_for else "load"

    def words(self, worker: str) -> str:
        """Say what happened on a worker."""
        where, size = f"worker {worker[-4:]}", f"{self.size_bytes / 1e6:.0f} MB"
        if self.leaves_host:
            return f"its weights ({size}) left host memory for those of {self.evicted_for} on {where}"
        if self.evicted_for:
            then = "its weights stay in host memory" if self.via_host else "its next load reads its files"
            return f"it made room ({size}) for {self.evicted_for} on {where}; {then}"
        source = "host memory" if self.via_host else "its files"
        return f"{where} loaded it ({size}) from {source} in {self.seconds:.2f} s"


@dataclass(frozen=True, slots=True)
class TaskStats:
    """What a task cost: waiting and running in seconds, whether a cache answered it, and what it added to its model.

    ``step_lanes`` and ``step_rows``: the lanes and the token rows of the passes that its steps were part of.
    ``step_at``: when each step of the last attempt began, counted from the call's arrival at its replica.
    ``steps_redone`` are those known to have been run again after a replica was lost: as far as it had told.
    ``steps_split`` had their guidance branches computed by two replicas.
    ``text_tokens`` are those of an encoded prompt, also of a cached one.  ``load_s``: how long the call waited for its
    model to be on its worker.  ``moves``: what that worker has loaded and evicted since it last answered a call.
    ``began_s`` and ``ended_s`` are when its coordinator sent it off and had its result; no comparison heeds them.
    """

    queue_s: float = 0.0
    run_s: float = 0.0
    cache_hit: bool = False
    batch_size: int = 1
    step_s: tuple[float, ...] = ()
    step_lanes: tuple[int, ...] = ()
    step_rows: tuple[int, ...] = ()
    attempts: int = 1
    steps_redone: int = 0
    adapters: tuple[AdapterStats, ...] = ()
    controlnets: tuple[ControlNetStats, ...] = ()
    reuse: ReuseStats | None = None
    tier: TierUse | None = None
    step_at: tuple[float, ...] = ()
    text_tokens: int = 0
    load_s: float = 0.0
    steps_split: int = 0
    moves: tuple[ModelMove, ...] = ()
    began_s: float | None = field(default=None, compare=False)
    ended_s: float | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class GeneratedImage:
    """One finished image: 8-bit RGB rows, top to bottom, ``3 * width * height`` bytes."""

    width: int
    height: int
    rgb: bytes
    seed: int


@dataclass(frozen=True, slots=True)
class JobProgress:
    """How far image ``index`` of a job is, and a preview where one was due; seconds to its end as expected now."""

    index: int
    step: int
    steps: int
    eta_s: float
    preview: GeneratedImage | None = None


@dataclass(frozen=True, slots=True)
class JobState:
    """A job in flight, for operators: how old it is, whether they paused it, and of each node whether it is
    waiting, running or done.
    """

    id: str
    workflow: str
    tenant: str
    age_s: float
    nodes: Mapping[str, str]
    is_paused: bool = False


@dataclass(frozen=True, slots=True)
class JobResult:
    """What a job came to: its images and where its time went."""

    images: tuple[GeneratedImage, ...]
    queue_s: float
    node_s: Mapping[str, float] = field(default_factory=dict)
    cache_hits: int = 0
    stats: Mapping[str, TaskStats] = field(default_factory=dict)
