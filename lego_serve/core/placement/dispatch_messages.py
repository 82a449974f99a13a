"""What crosses between gateways and the dispatcher that places the jobs of all of them.

Each process has a clock of its own, so that times cross as spans: seconds from when a message was sent.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from lego_serve.core.cluster.schedule import NEVER
from lego_serve.core.placement.pool_jobs import Steal

Resident = Mapping[str, frozenset[str]]  # the models of each replica


@dataclass(frozen=True, slots=True)
class SentJob:
    """A job for the pool of an application: its seconds alone on a replica, and those left until its deadline.

    ``replica``: where it was placed before, if the dispatcher has forgotten that.  ``is_settled``: it has begun, or
    was taken from a replica once, and so stays where it is.
    """

    id: str
    app: str
    seconds: float
    models: frozenset[str] = frozenset()
    due_in_s: float = NEVER
    tenant: str = "default"
    replica: str = ""
    is_settled: bool = False


@dataclass(frozen=True, slots=True)
class JobOffer:
    """A newcomer that a gateway would admit: if it is in time it has its place until it begins or is withdrawn."""

    gateway: str
    job: SentJob


@dataclass(frozen=True, slots=True)
class HeldModel:
    """A replica of an application that could not load a model, and does not try again for so long; who heard of it."""

    app: str
    replica: str
    model: str
    for_s: float
    job: str = ""


@dataclass(frozen=True, slots=True)
class GatewayReport:
    """What a gateway has to tell since its last report, or, where ``is_whole``, all that it knows.

    ``number`` grows with each report of the gateway.  ``left_s``: the seconds that jobs still take.  ``ended``: those
    that have, or were offered and do not begin.  ``resident``: the replicas of an application and the models of each.
    ``gone``: replicas that are not to be used any more, ``aside``: all those that drain or hang.  ``held``: models that
    replicas could not load.  ``unplaced``: jobs whose places do not hold any more, and are to be told again.
    ``load_s``: how long loads took, by application and model.
    """

    gateway: str
    number: int
    is_whole: bool = False
    added: tuple[SentJob, ...] = ()
    left_s: Mapping[str, float] = field(default_factory=dict)
    ended: frozenset[str] = frozenset()
    resident: Mapping[str, Resident] = field(default_factory=dict)
    gone: frozenset[str] = frozenset()
    load_s: Mapping[tuple[str, str], float] = field(default_factory=dict)
    aside: frozenset[str] = frozenset()
    held: tuple[HeldModel, ...] = ()
    unplaced: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class JobPlace:
    """Where a job is placed, empty where it waits; and that it was taken from another replica, if it was."""

    replica: str = ""
    taken: Steal | None = None


@dataclass(frozen=True, slots=True)
class DispatcherAnswer:
    """The answer to a report: places of the gateway's jobs, as far as they changed, or all after a whole report.

    Without ``is_known`` nothing was taken from the report: the gateway is to tell all that it knows.  ``apps``: the
    applications that have replicas.  ``work_s``: the seconds of work in hand for each shared worker.
    """

    number: int
    is_known: bool = True
    places: Mapping[str, JobPlace] = field(default_factory=dict)
    apps: frozenset[str] = frozenset()
    work_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Expectation:
    """In how many seconds a newcomer would end, behind how many others, and if too late: when to come again."""

    in_s: float
    place: int
    retry_after_s: float | None = None
