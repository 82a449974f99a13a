"""The two sides as the suite sees them, and what is tried before the rounds: layouts, solo times, torch.compile."""

import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from loadgen.children import ChildError
from loadgen.client import Deadline, Sample
from loadgen.mixed.objective import Objective, Timed, fit
from loadgen.mixed.plan import Effort, Layout, MixedSuite
from loadgen.mixed.search import Clock
from loadgen.mixed.workload import CLOSED, FIRST_PROBE, RATED, WARM_UP, Dealer
from loadgen.stats import median
from loadgen.summary import NoImagesError, throughput_rps
from loadgen.traffic import Arrivals, Closed, ImageRequest

BASELINE_TRIAL, LEGO_TRIAL, COMPILED_TRIAL = CLOSED, RATED, FIRST_PROBE  # phases of round 0, before the rounds
PLAIN_REPEATS = 5
Tell = Callable[[str], None]
Variant = Callable[[ImageRequest], ImageRequest]  # a request to the request as it is asked otherwise


class Server(Protocol):
    """A running server that is asked over HTTP."""

    ready_s: float

    @property
    def dtype(self) -> str:
        """The dtype it says it computes in."""
        ...

    def run(
        self,
        requests: Sequence[ImageRequest],
        arrivals: Arrivals,
        rng: random.Random,
        deadline_s: Deadline | None = None,
    ) -> list[Sample]:
        """Send the requests as the arrivals say; returns when all are answered."""
        ...


Start = AbstractContextManager[Server]


@dataclass(frozen=True, slots=True)
class MixedSides:
    """How to start each side anew: the baseline in a layout, compiled or not, and lego with so many backbones."""

    baseline: Callable[[Layout, bool], Start]
    lego: Callable[[int | None], Start]


class Storage(Protocol):
    """What adapters and ControlNets are loaded from, as slow as it is made; the sides look at it at every start."""

    @property
    def plain_request(self) -> ImageRequest:
        """The request by whose solo time the storage's is set."""
        ...

    def set(self, plain_s: float) -> None:
        """Make loads take their shares of these seconds from now on."""
        ...


@dataclass(frozen=True, slots=True)
class Bench:
    """What every phase needs; ``inspect`` looks at lego's server after a round and answers what it found.

    ``variants`` are other ways, by name, in which lego is asked for the same images.
    """

    suite: MixedSuite
    effort: Effort
    workload: Dealer
    sides: MixedSides
    tell: Tell
    clock: Clock
    begun_s: float
    storage: Storage | None = None
    inspect: Callable[[Server, Timed], Mapping[str, object]] | None = None
    variants: Mapping[str, Variant] = field(default_factory=dict)

    @property
    def left_s(self) -> float:
        """Seconds until the run should end."""
        return self.begun_s + self.effort.ends_after_s - self.clock()


@dataclass(frozen=True, slots=True)
class Compiled:
    """torch.compile's variant of the baseline, or why there is none."""

    solo_ratio: float | None  # median over the grid of its solo seconds over the eager ones
    throughput_rps: float | None
    warm_up_s: float | None
    reason: str | None


def closed(bench: Bench, server: Server, requests: Sequence[ImageRequest]) -> Timed:
    """A closed loop; no deadlines, for it measures how much is done, not how soon."""
    arrivals = Closed(len(requests), bench.suite.outstanding)
    return Timed(requests, server.run(requests, arrivals, random.Random(0)))


def warm_up(bench: Bench, server: Server, round_number: int, count: int) -> None:
    """Every replica has seen every kind of request before anything is timed."""
    closed(bench, server, bench.workload.requests(round_number, WARM_UP, count))


def try_layouts(bench: Bench, plain_s: dict[Layout, float]) -> dict[Layout, float]:
    """The baseline's closed throughput in each layout; which is best depends on the machine and the model.

    With a storage each layout is tried under one as slow as goes with its plain solo time, which ``plain_s`` is told.
    """
    found = {}
    for layout in bench.suite.layouts:
        if bench.storage is not None:
            bench.storage.set(0.0)
        with bench.sides.baseline(layout, False) as server:
            warm_up(bench, server, 0, bench.effort.warm_ups)
            if bench.storage is not None:
                plain_s[layout] = _plain_s(server, bench.storage.plain_request)
                bench.storage.set(plain_s[layout])
                bench.tell(f"trial: baseline with {layout.name}, {plain_s[layout]:.3f} s a plain image alone")
            requests = bench.workload.requests(0, BASELINE_TRIAL, bench.effort.trial_requests)
            found[layout] = throughput_rps(closed(bench, server, requests).samples)
        bench.tell(f"trial: baseline with {layout.name}, {found[layout]:.2f} images a second")
    return found


def try_backbones(bench: Bench) -> dict[int, float]:
    """The server's closed throughput with each number of backbone replicas."""
    found = {}
    for count in bench.effort.lego_backbones:
        with bench.sides.lego(count) as server:
            warm_up(bench, server, 0, bench.effort.lego_warm_ups)
            requests = bench.workload.requests(0, LEGO_TRIAL, bench.effort.trial_requests)
            found[count] = throughput_rps(closed(bench, server, requests).samples)
        bench.tell(f"trial: lego-serve with {count} backbone replica(s), {found[count]:.2f} images a second")
    return found


def measure_solo(bench: Bench, server: Server) -> Objective:
    """What each kind of request takes the warm baseline alone, and the objective that follows."""
    grid = bench.workload.solo_grid()
    if bench.storage is not None:  # every replica has them resident, as the objective means it
        closed(bench, server, [grid[-1]] * bench.suite.outstanding)
    repeats = [one_by_one(server, grid) for _ in range(bench.effort.solo_repeats)]
    objective = fit(grid, repeats, bench.suite.slo_scale)
    times = [objective.solo_s(request) for request in grid]
    bench.tell(f"baseline alone: {min(times):.2f} to {max(times):.2f} s an image")
    return objective


def _plain_s(server: Server, request: ImageRequest) -> float:
    return median([s.done_s - s.sent_s for s in one_by_one(server, [request] * PLAIN_REPEATS)])


def one_by_one(server: Server, requests: Sequence[ImageRequest]) -> list[Sample]:
    """Each sent when the one before is answered."""
    return server.run(requests, Closed(len(requests), 1), random.Random(0)) if requests else []


def try_compiled(bench: Bench, layout: Layout, objective: Objective) -> Compiled | None:
    """The compiled transformer beside the eager one, within its time; None where the effort leaves it out."""
    if bench.effort.compiled_s is None:
        return None
    try:
        with bench.sides.baseline(layout, True) as server:
            found = _measure_compiled(bench, server, layout, objective, bench.effort.compiled_s)
    except (ChildError, NoImagesError) as error:
        found = Compiled(None, None, None, str(error)[-500:])
    said = found.reason or f"{found.solo_ratio:.2f} times the eager time alone, {found.throughput_rps:.2f} a second"
    bench.tell(f"baseline compiled: {said}")
    return found


def _measure_compiled(bench: Bench, server: Server, layout: Layout, objective: Objective, limit_s: float) -> Compiled:
    grid, begun = bench.workload.solo_grid(), bench.clock()
    kinds = [request for request in grid if request.steps == bench.suite.fewest_steps]
    for index, request in enumerate(kinds):
        # As many at once as there are replicas, so that each of them compiles.
        answers = server.run([request] * layout.replicas, Closed(layout.replicas, layout.replicas), random.Random(0))
        throughput_rps(answers)
        if (spent := bench.clock() - begun) > limit_s:
            reason = f"after {spent:.0f} s of compiling only {index + 1} of {len(kinds)} kinds of requests were warm"
            return Compiled(None, None, None, reason)
    warm_up_s = bench.clock() - begun
    alone = one_by_one(server, grid)
    ratios = [(s.done_s - s.sent_s) / objective.solo_s(r) for r, s in zip(grid, alone, strict=True) if s.is_ok]
    requests = bench.workload.requests(0, COMPILED_TRIAL, bench.effort.trial_requests)
    return Compiled(median(ratios), throughput_rps(closed(bench, server, requests).samples), warm_up_s, None)


def best(found: Mapping[Layout, float]) -> Layout:
    """The layout with the highest throughput."""
    return max(found, key=lambda layout: found[layout])
