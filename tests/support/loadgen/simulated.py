"""A server simulated by arithmetic: requests wait for one of its workers, first come, first served."""

import heapq
import io
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import TracebackType

from PIL import Image

from loadgen.client import Deadline, Reply, Sample
from loadgen.mixed.bench import Bench
from loadgen.mixed.plan import MIXED, Effort, Layout, MixedSuite, SearchPlan
from loadgen.mixed.systems import MixedSystems
from loadgen.mixed.workload import Workload
from loadgen.traffic import Arrivals, ClosedLoop, ImageRequest

Cost = Callable[[ImageRequest], float]


def image(level: int = 10) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (level, level, level)).save(buffer, "PNG")
    return buffer.getvalue()


IMAGE = image()


@dataclass
class FakeClock:
    """Stands still until a simulated run moves it."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


class SimulatedServer:
    """Workers with known seconds a request; drops what its deadline forbids, as the real one does."""

    dtype = "float32"
    ready_s = 3.0

    def __init__(self, clock: FakeClock, cost_s: Cost, workers: int = 1) -> None:
        self._clock = clock
        self._cost_s = cost_s
        self._workers = workers
        self.runs: list[tuple[list[ImageRequest], Arrivals, bool]] = []

    def __enter__(self) -> "SimulatedServer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def run(
        self,
        requests: Sequence[ImageRequest],
        arrivals: Arrivals,
        rng: random.Random,
        deadline_s: Deadline | None = None,
    ) -> list[Sample]:
        self.runs.append((list(requests), arrivals, deadline_s is not None))
        free = [0.0] * self._workers
        done: list[float] = []
        samples = []
        for index, request in enumerate(requests):
            due = self._due(index, done, arrivals, rng)
            start = max(due, heapq.heappop(free))
            end = start + self._cost_s(request)
            if deadline_s is not None and end > due + deadline_s(request):
                heapq.heappush(free, start)
                samples.append(Sample(due, due, due + deadline_s(request), Reply(None, "504: deadline_exceeded")))
            else:
                heapq.heappush(free, end)
                samples.append(Sample(due, due, end, Reply(IMAGE)))
            done.append(samples[-1].done_s)
        self._clock.now += max(done)
        return samples

    def _due(self, index: int, done: list[float], arrivals: Arrivals, rng: random.Random) -> float:
        if not isinstance(arrivals, ClosedLoop):
            if index == 0:
                self._times = arrivals.times_s(rng)
            return self._times[index]
        if index < arrivals.outstanding:
            return 0.0
        return sorted(done)[index - arrivals.outstanding]


def cost_s(request: ImageRequest) -> float:
    """Seconds of an image alone: a constant and so much for each step and pixel."""
    branches = 2 if request.guidance > 1 else 1
    return 0.05 + request.steps * branches * (0.002 + request.width * request.height * 2e-7)


EFFORT = Effort(
    rounds=2,
    ends_after_s=1e9,
    trial_requests=30,
    solo_repeats=1,
    closed_requests=60,
    probe_s=60.0,
    fewest_requests=40,
    rated_s=60.0,
    search=SearchPlan(step=1.25, resolution=1.05, budget_s=1e9, most_probes=12),
    compiled_s=None,
    lego_backbones=(),
)


@dataclass
class World:
    """Both systems simulated: two baseline workers or one, and a server ``speed`` times as fast."""

    clock: FakeClock
    servers: list[tuple[str, SimulatedServer]]
    lines: list[str]
    bench: Bench

    def runs_of(self, name: str) -> list[tuple[list[ImageRequest], Arrivals, bool]]:
        return [run for system, server in self.servers if system == name for run in server.runs]


def world(speed: float = 2.0, suite: MixedSuite = MIXED, **effort: object) -> World:
    clock = FakeClock()
    servers: list[tuple[str, SimulatedServer]] = []
    lines: list[str] = []

    def start(name: str, cost: Cost, workers: int) -> SimulatedServer:
        servers.append((name, SimulatedServer(clock, cost, workers)))
        return servers[-1][1]

    def baseline(layout: Layout, compiled: bool) -> SimulatedServer:
        def slower(request: ImageRequest) -> float:
            clock.now += 10.0 * compiled  # compiling takes its time
            return cost_s(request) * (0.8 if compiled else 1.0) / layout.threads**0.5

        return start("compiled" if compiled else "baseline", slower, layout.replicas)

    def lego(backbones: int | None) -> SimulatedServer:
        return start("lego", lambda request: cost_s(request) / speed, backbones or 2)

    bench = Bench(
        suite,
        replace(EFFORT, **effort),  # type: ignore[arg-type]
        Workload(suite, 0),
        MixedSystems(baseline, lego),
        lines.append,
        clock,
        clock.now,
    )
    return World(clock, servers, lines, bench)
