"""The latency objective of each request, and which share of the requests met theirs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from loadgen.client import Sample
from loadgen.mixed.plan import MixedSuite
from loadgen.summary import NoImagesError
from loadgen.traffic import ImageRequest

SOLO_PROMPT = "a large green circle on the left, yellow background"
Key = tuple[int, int, bool, tuple[int, int]]  # the longer side, the shorter, with guidance, add-ons


@dataclass(frozen=True, slots=True)
class Line:
    """Seconds of one image alone: a constant and so much for each step."""

    constant_s: float
    step_s: float

    def at(self, steps: int) -> float:
        """Seconds with so many steps."""
        return self.constant_s + self.step_s * steps


@dataclass(frozen=True, slots=True)
class Objective:
    """``scale`` times what the baseline needs, warm and alone, for the same size, steps, guidance and add-ons."""

    scale: float
    lines: Mapping[Key, Line]

    def solo_s(self, request: ImageRequest) -> float:
        """The baseline's seconds for this request alone."""
        return self.lines[key_of(request)].at(request.steps)

    def slo_s(self, request: ImageRequest) -> float:
        """Within how many seconds it must be answered."""
        return self.scale * self.solo_s(request)


def key_of(request: ImageRequest) -> Key:
    """Requests of one key differ in cost by their steps alone; an image and the same turned cost the same."""
    sides = sorted((request.width, request.height), reverse=True)
    return sides[0], sides[1], request.guidance > 1.0, request.addons


def solo_grid(suite: MixedSuite) -> list[ImageRequest]:
    """One request for each key at the fewest and at the most steps."""
    sizes = dict.fromkeys(tuple(sorted(size, reverse=True)) for kind in suite.classes for size in kind.sizes)
    return [
        ImageRequest(SOLO_PROMPT, width, height, steps, guidance, 0)
        for width, height in sizes
        for guidance in (suite.guidance, 1.0)
        for steps in sorted({suite.fewest_steps, suite.most_steps})
    ]


def fit(grid: Sequence[ImageRequest], repeats: Sequence[Sequence[Sample]], scale: float) -> Objective:
    """The objective from repeated solo times of the grid; NoImagesError where an image never came.

    Of the repeats the middle one counts (of two the faster): a neighbour's burst must not relax an objective.
    """
    times: dict[Key, dict[int, float]] = {}
    for index, request in enumerate(grid):
        seen = sorted(run[index].done_s - run[index].sent_s for run in repeats if run[index].is_ok)
        if not seen:
            raise NoImagesError(f"no image alone: {repeats[0][index].reply.error}")
        times.setdefault(key_of(request), {})[request.steps] = seen[(len(seen) - 1) // 2]
    return Objective(scale, {key: _line(at) for key, at in times.items()})


def _line(at: Mapping[int, float]) -> Line:
    low, high = min(at), max(at)
    if low == high:  # the suite has but one number of steps
        return Line(at[low], 0.0)
    step_s = (at[high] - at[low]) / (high - low)
    return Line(at[low] - low * step_s, step_s)


@dataclass(frozen=True, slots=True)
class Timed:
    """Requests and how they went."""

    requests: Sequence[ImageRequest] = field(repr=False)
    samples: Sequence[Sample] = field(repr=False)

    def __iter__(self) -> Iterator[tuple[ImageRequest, Sample]]:
        return zip(self.requests, self.samples, strict=True)

    @property
    def failures(self) -> int:
        """Requests without an image."""
        return sum(not sample.is_ok for sample in self.samples)


@dataclass(frozen=True, slots=True)
class Tally:
    """How many of how many requests met their objective."""

    met: int
    asked: int

    @property
    def ratio(self) -> float:
        """The share; of nothing all is met."""
        return self.met / self.asked if self.asked else 1.0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(self.met + other.met, self.asked + other.asked)


@dataclass(frozen=True, slots=True)
class Attainment:
    """Tallies by size class, and how many requests brought no image at all."""

    classes: Mapping[str, Tally]
    failures: int

    @property
    def ratio(self) -> float:
        """The share over all classes."""
        return sum(self.classes.values(), Tally(0, 0)).ratio

    def is_enough(self, overall: float, each: float) -> bool:
        """Whether the whole and every class reach their floors."""
        return self.ratio >= overall and all(tally.ratio >= each for tally in self.classes.values())


def attainment(timed: Timed, slo_s: Callable[[ImageRequest], float], suite: MixedSuite) -> Attainment:
    """Who met the objective; a request without an image did not, however soon that was known."""
    classes = {kind.name: Tally(0, 0) for kind in suite.classes}
    for request, sample in timed:
        is_met = sample.is_ok and sample.latency_s <= slo_s(request)
        classes[suite.class_of(request.width, request.height)] += Tally(int(is_met), 1)
    return Attainment(classes, timed.failures)


def latencies_s(timed: Timed, slo_s: Callable[[ImageRequest], float]) -> list[float]:
    """Every request's latency from when it was due.

    One without an image counts as if its client had waited to the end of the run, and for its objective at
    least: a server must not gain by dropping those that come late.
    """
    end = max(sample.done_s for sample in timed.samples)
    return [sample.latency_s if sample.is_ok else max(end - sample.due_s, slo_s(request)) for request, sample in timed]
