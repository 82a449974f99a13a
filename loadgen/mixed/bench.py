"""Shared parts of a measurement's phases: the suite, the systems, the clock, and how a phase is sent."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from loadgen.client import Sample
from loadgen.mixed.objective import TimedRun
from loadgen.mixed.plan import Effort, MixedSuite
from loadgen.mixed.search import Clock
from loadgen.mixed.systems import MixedSystems
from loadgen.mixed.workload import WARM_UP, RequestSource
from loadgen.progress import OnLine
from loadgen.server import Server
from loadgen.traffic import ClosedLoop, ImageRequest

Variant = Callable[[ImageRequest], ImageRequest]  # changes how a request is to be computed
Inspect = Callable[[Server, TimedRun], Mapping[str, object]]  # checks lego's server after a round


class Storage(Protocol):
    """The storage that adapters and ControlNets are loaded from; systems read its settings at every start."""

    @property
    def plain_request(self) -> ImageRequest:
        """The request whose solo time sets the storage's load times."""
        ...

    def set(self, plain_s: float) -> None:
        """Make loads take their shares of ``plain_s`` seconds from now on."""
        ...


@dataclass(frozen=True, slots=True)
class Bench:
    """What every phase needs; ``variants`` are other ways, by name, to request the same images from lego_serve."""

    suite: MixedSuite
    effort: Effort
    workload: RequestSource
    systems: MixedSystems
    on_line: OnLine
    clock: Clock
    begun_s: float
    storage: Storage | None = None
    inspect: Inspect | None = None
    variants: Mapping[str, Variant] = field(default_factory=dict)

    @property
    def left_s(self) -> float:
        """Seconds until the run should end."""
        return self.begun_s + self.effort.ends_after_s - self.clock()


def run_closed(bench: Bench, server: Server, requests: Sequence[ImageRequest]) -> TimedRun:
    """Send the requests in a closed loop, without deadlines: it measures how much is done, not how soon."""
    arrivals = ClosedLoop(len(requests), bench.suite.outstanding)
    return TimedRun(requests, server.run(requests, arrivals, random.Random(0)))


def run_one_by_one(server: Server, requests: Sequence[ImageRequest]) -> list[Sample]:
    """Send each request when the one before is answered."""
    return server.run(requests, ClosedLoop(len(requests), 1), random.Random(0)) if requests else []


def warm_up(bench: Bench, server: Server, round_number: int, count: int) -> None:
    """Show every replica every kind of request before anything is timed."""
    run_closed(bench, server, bench.workload.requests(round_number, WARM_UP, count))
