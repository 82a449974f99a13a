"""Suite ``mixed`` as values: its requests, its objective, how much it measures.  Suites like it have the same types."""

from dataclasses import dataclass

Size = tuple[int, int]  # width, height
MONOLITH = "diffusers-monolith"  # diffusers behind FastAPI on Ray Serve


@dataclass(frozen=True, slots=True)
class SizeClass:
    """Sizes whose attainment is reported together; each is requested equally often."""

    name: str
    sizes: tuple[Size, ...]


@dataclass(frozen=True, slots=True)
class SearchPlan:
    """How the highest rate is searched: by factors of ``step`` to a bracket no wider than ``resolution``."""

    step: float
    resolution: float
    budget_s: float
    most_probes: int


@dataclass(frozen=True, slots=True)
class Effort:
    """The size of a run."""

    rounds: int
    ends_after_s: float  # later rounds are left out and the last search is cut short to meet it
    trial_requests: int
    solo_repeats: int
    closed_requests: int
    probe_s: float
    fewest_requests: int
    rated_s: float
    search: SearchPlan
    compiled_s: float | None  # time for torch.compile to warm up; None leaves the variant out
    lego_backbones: tuple[int, ...]  # numbers of backbone replicas to try; empty keeps the configuration's
    warm_ups: int = 16  # requests before anything of the baseline is timed
    lego_warm_ups: int = 16
    alone_requests: int = 0  # in each round, sent one after the other to either system


@dataclass(frozen=True, slots=True)
class Layout:
    """The baseline's replica processes and the torch threads in each."""

    replicas: int
    threads: int

    @property
    def name(self) -> str:
        """The layout in words, such as "2 replicas x 1 thread"."""
        return f"{_count(self.replicas, 'replica')} x {_count(self.threads, 'thread')}"


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


@dataclass(frozen=True, slots=True)
class MixedSuite:
    """The mix of requests, the objective, and how much a full and a quick run measure."""

    name: str
    title: str
    model: str
    classes: tuple[SizeClass, ...]
    fewest_steps: int
    most_steps: int
    guidance: float
    without_guidance_every: int  # one in so many of each class runs without guidance; 0 for none
    outstanding: int
    slo_scale: float
    attainment: float
    class_attainment: float
    sends_deadline: bool  # the objective goes to lego_serve as `deadline_ms`; the baseline has no such field
    rate_factor: float  # the offered rate over the baseline's highest
    layouts: tuple[Layout, ...]
    full: Effort
    quick: Effort
    baseline: str = MONOLITH

    def class_of(self, width: int, height: int) -> str:
        """Return the name of the class that a size belongs to."""
        return next(kind.name for kind in self.classes if (width, height) in kind.sizes)


MIXED = MixedSuite(
    name="mixed",
    title="Mixed sizes, steps and guidance",
    model="lego-tiny",
    classes=(
        SizeClass("small", ((96, 96), (128, 96), (96, 128), (128, 128))),
        SizeClass("middle", ((160, 160), (192, 160), (160, 192), (192, 192))),
        SizeClass("large", ((224, 224), (256, 224), (224, 256), (256, 256))),
    ),
    fewest_steps=8,
    most_steps=28,
    guidance=4.0,
    without_guidance_every=5,
    outstanding=16,
    slo_scale=5.0,
    attainment=0.9,
    class_attainment=0.75,
    sends_deadline=True,
    rate_factor=1.0,
    layouts=(Layout(1, 2), Layout(2, 1)),
    full=Effort(
        rounds=3,
        ends_after_s=2500.0,
        trial_requests=60,
        solo_repeats=3,
        closed_requests=90,
        probe_s=40.0,
        fewest_requests=45,
        rated_s=60.0,
        search=SearchPlan(step=1.35, resolution=1.09, budget_s=180.0, most_probes=8),
        compiled_s=150.0,
        lego_backbones=(1, 2),
    ),
    quick=Effort(
        rounds=1,
        ends_after_s=860.0,
        trial_requests=20,
        solo_repeats=1,
        closed_requests=45,
        probe_s=22.0,
        fewest_requests=40,
        rated_s=30.0,
        search=SearchPlan(step=1.35, resolution=1.17, budget_s=170.0, most_probes=6),
        compiled_s=None,
        lego_backbones=(),
    ),
)
