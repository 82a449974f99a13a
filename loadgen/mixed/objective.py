"""The latency objective of each request, and the share of requests that met theirs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from loadgen.client import Sample
from loadgen.mixed.plan import MixedSuite
from loadgen.summary import NoImagesError
from loadgen.traffic import ImageRequest

SOLO_PROMPT = "a large green circle on the left, yellow background"
CostKey = tuple[int, int, bool, tuple[int, int]]  # longer side, shorter side, with guidance, add-ons


@dataclass(frozen=True, slots=True)
class SoloTime:
    """Seconds of one image alone: a constant plus a time for each step."""

    constant_s: float
    step_s: float

    def seconds(self, steps: int) -> float:
        """Return the seconds of an image of so many steps."""
        return self.constant_s + self.step_s * steps


@dataclass(frozen=True, slots=True)
class Objective:
    """Allows ``scale`` times what the warm baseline needs alone for the same size, steps, guidance and add-ons."""

    scale: float
    solo_times: Mapping[CostKey, SoloTime]

    def solo_s(self, request: ImageRequest) -> float:
        """Return the baseline's seconds for this request alone."""
        return self.solo_times[cost_key(request)].seconds(request.steps)

    def slo_s(self, request: ImageRequest) -> float:
        """Return within how many seconds the request must be answered."""
        return self.scale * self.solo_s(request)


def cost_key(request: ImageRequest) -> CostKey:
    """Return a key whose requests differ in cost by their steps alone; turning an image changes no cost."""
    longer, shorter = max(request.width, request.height), min(request.width, request.height)
    return longer, shorter, request.guidance > 1.0, request.addons


def solo_grid(suite: MixedSuite) -> list[ImageRequest]:
    """Return one request for each cost key at the fewest and at the most steps."""
    sizes = dict.fromkeys(tuple(sorted(size, reverse=True)) for kind in suite.classes for size in kind.sizes)
    return [
        ImageRequest(SOLO_PROMPT, width, height, steps, guidance, 0)
        for width, height in sizes
        for guidance in (suite.guidance, 1.0)
        for steps in sorted({suite.fewest_steps, suite.most_steps})
    ]


def fit(grid: Sequence[ImageRequest], repeats: Sequence[Sequence[Sample]], scale: float) -> Objective:
    """Return the objective from repeated solo times of the grid.  Raises NoImagesError where an image never came.

    The median repeat counts (of two the faster): a neighbour's burst must not relax an objective.
    """
    times: dict[CostKey, dict[int, float]] = {}
    for index, request in enumerate(grid):
        seconds = sorted(run[index].service_s for run in repeats if run[index].is_ok)
        if not seconds:
            raise NoImagesError(f"no image alone: {repeats[0][index].reply.error}")
        times.setdefault(cost_key(request), {})[request.steps] = seconds[(len(seconds) - 1) // 2]
    return Objective(scale, {key: _solo_time(by_steps) for key, by_steps in times.items()})


def _solo_time(by_steps: Mapping[int, float]) -> SoloTime:
    low, high = min(by_steps), max(by_steps)
    if low == high:  # all requests of the suite have the same number of steps
        return SoloTime(by_steps[low], 0.0)
    step_s = (by_steps[high] - by_steps[low]) / (high - low)
    return SoloTime(by_steps[low] - low * step_s, step_s)


@dataclass(frozen=True, slots=True)
class TimedRun:
    """The requests of one run and their samples."""

    requests: Sequence[ImageRequest] = field(repr=False)
    samples: Sequence[Sample] = field(repr=False)

    def __iter__(self) -> Iterator[tuple[ImageRequest, Sample]]:
        return zip(self.requests, self.samples, strict=True)

    @property
    def failures(self) -> int:
        """How many requests got no image."""
        return sum(not sample.is_ok for sample in self.samples)


@dataclass(frozen=True, slots=True)
class Tally:
    """How many requests met their objective, of how many."""

    met: int
    asked: int

    @property
    def ratio(self) -> float:
        """The share of requests that met it; 1 where there are none."""
        return self.met / self.asked if self.asked else 1.0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(self.met + other.met, self.asked + other.asked)


@dataclass(frozen=True, slots=True)
class Attainment:
    """Tallies by size class, and how many requests got no image at all."""

    classes: Mapping[str, Tally]
    failures: int

    @property
    def ratio(self) -> float:
        """The share of requests over all classes."""
        return sum(self.classes.values(), Tally(0, 0)).ratio

    def is_enough(self, overall: float, per_class: float) -> bool:
        """Return whether the whole and every class reach their floors."""
        return self.ratio >= overall and all(tally.ratio >= per_class for tally in self.classes.values())


def attainment(run: TimedRun, slo_s: Callable[[ImageRequest], float], suite: MixedSuite) -> Attainment:
    """Count who met the objective; a request without an image missed it, however soon the refusal came."""
    classes = {kind.name: Tally(0, 0) for kind in suite.classes}
    for request, sample in run:
        is_met = sample.is_ok and sample.latency_s <= slo_s(request)
        classes[suite.class_of(request.width, request.height)] += Tally(int(is_met), 1)
    return Attainment(classes, run.failures)


def latencies_s(run: TimedRun, slo_s: Callable[[ImageRequest], float]) -> list[float]:
    """Return every request's latency from when it was due.

    A request without an image counts as if its client had waited to the end of the run, and at least for its
    objective: a server must not gain by dropping late requests.
    """
    end_s = max(sample.done_s for sample in run.samples)
    return [sample.latency_s if sample.is_ok else max(end_s - sample.due_s, slo_s(request)) for request, sample in run]
