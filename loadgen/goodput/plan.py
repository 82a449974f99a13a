"""The suites of goodput, as values."""

from dataclasses import dataclass

from loadgen.mixed.plan import Layout


@dataclass(frozen=True, slots=True)
class GoodputEffort:
    """The size of a run: rounds, the requests of each load, those that are sent alone, and those that fill a server."""

    rounds: int
    requests: int
    alone: int
    filling: int


@dataclass(frozen=True, slots=True)
class GoodputSuite:
    """Requests that are alike, at rates that are shares of what the baseline makes when it is always full.

    ``cv`` is the coefficient of variation of the gaps.  ``workflows`` share one base; their popularity is 1, 1/2, 1/3
    and so on, in the opposite order from the middle of each load on.  Without any it is the model's own workflow.
    """

    name: str
    title: str
    model: str
    width: int
    height: int
    steps: int
    guidance: float
    workflows: tuple[str, ...]
    cv: float
    slo_scale: float
    loads: tuple[float, ...]
    layouts: tuple[Layout, ...]  # of the baseline, of which the one that makes most is compared
    outstanding: int
    full: GoodputEffort
    quick: GoodputEffort


BURST = GoodputSuite(
    name="burst",
    title="Bursts",
    model="lego-tiny",
    width=128,
    height=128,
    steps=20,
    guidance=4.0,
    workflows=(),
    cv=8.0,
    slo_scale=5.0,
    loads=(0.7,),
    layouts=(Layout(1, 2), Layout(2, 1)),
    outstanding=8,
    full=GoodputEffort(rounds=3, requests=300, alone=5, filling=40),
    quick=GoodputEffort(rounds=1, requests=120, alone=3, filling=16),
)
MULTI = GoodputSuite(
    name="multi",
    title="Five workflows on one base",
    model="lego-tiny",
    width=128,
    height=128,
    steps=20,
    guidance=4.0,
    workflows=("poster", "sticker", "icon", "cover", "card"),
    cv=1.0,
    slo_scale=5.0,
    loads=(0.5, 1.0, 1.5, 2.0),
    layouts=(Layout(1, 1),),  # of each workflow
    outstanding=8,
    full=GoodputEffort(rounds=3, requests=150, alone=5, filling=40),
    quick=GoodputEffort(rounds=1, requests=50, alone=3, filling=16),
)
GOODPUT = {suite.name: suite for suite in (BURST, MULTI)}
