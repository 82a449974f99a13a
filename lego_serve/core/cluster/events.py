"""What the brain of a cluster hears, and what it decides; each decision says why."""

from dataclasses import dataclass

from lego_serve.core.cluster.state import Call, Job


@dataclass(frozen=True, slots=True)
class Offered:
    """A request asks to be served."""

    job: Job


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Nobody waits for a job any more."""

    job_id: int


@dataclass(frozen=True, slots=True)
class CallEnded:
    """A worker has done a call."""

    call_id: int


@dataclass(frozen=True, slots=True)
class Loaded:
    """Models are on a worker now."""

    worker: int
    models: frozenset[str]


@dataclass(frozen=True, slots=True)
class WorkerJoined:
    """A worker can take work; it holds some models already."""

    worker: int
    memory_bytes: int
    resident: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class WorkerLeft:
    """A worker is gone, with all it held; what it ran begins anew elsewhere."""

    worker: int


Event = Offered | Cancelled | CallEnded | Loaded | WorkerJoined | WorkerLeft


@dataclass(frozen=True, slots=True)
class Admitted:
    """A job is taken: it is expected to end then, after so many others have begun."""

    job: Job
    eta_s: float
    place: int
    reason: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """A job is refused; it could be taken after so many seconds if nothing else came."""

    job: Job
    retry_after_s: float
    reason: str


@dataclass(frozen=True, slots=True)
class Shed:
    """An admitted job is given up for others."""

    job: Job
    reason: str


@dataclass(frozen=True, slots=True)
class Run:
    """A worker, or two, are to do a call."""

    call: Call
    reason: str


@dataclass(frozen=True, slots=True)
class Load:
    """A worker is to free some models, then load others."""

    worker: int
    models: tuple[str, ...]
    evict: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Finished:
    """A job's image is there."""

    job: Job
    reason: str = "done"


Decision = Admitted | Rejected | Shed | Run | Load | Finished
