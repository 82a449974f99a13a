"""Runs a suite: baseline and server in turn, on the same cores, with the same requests."""

import json
import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from loadgen import summary
from loadgen.client import Sample
from loadgen.machine import CORES, describe_run, pin
from loadgen.reports.report import write_report
from loadgen.suites import Suite
from loadgen.traffic import Arrivals, ImageRequest

SEED = 0
TRIAL_IMAGES = 4  # one of them to warm up
BASELINE = "diffusers-in-process"

Tell = Callable[[str], None]


class Baseline(Protocol):
    """A diffusers pipeline that answers bursts with a given number of threads."""

    dtype: str

    def burst(self, requests: Sequence[ImageRequest], threads: int) -> list[Sample]:
        """Make the images, all due at the start."""
        ...


class Server(Protocol):
    """A server that is asked over HTTP."""

    ready_s: float

    def run(self, requests: Sequence[ImageRequest], arrivals: Arrivals, rng: random.Random) -> list[Sample]:
        """Send the requests as the arrivals say."""
        ...


@dataclass(frozen=True, slots=True)
class Sides:
    """How to start each side anew for a round."""

    baseline: Callable[[], AbstractContextManager[Baseline]]
    server: Callable[[], AbstractContextManager[Server]]


@dataclass(slots=True)
class Measured:
    """Everything seen so far: the trial's seconds an image by threads, and rounds of bursts of both sides."""

    trial_s: dict[int, float] = field(default_factory=dict)
    baseline: list[list[list[Sample]]] = field(default_factory=list)
    lego: list[list[list[Sample]]] = field(default_factory=list)
    requests: list[list[list[ImageRequest]]] = field(default_factory=list)
    ready_s: list[float] = field(default_factory=list)
    dtype: str = ""

    @property
    def best_threads(self) -> int:
        """The thread count with which the baseline was fastest in the trial."""
        return min(self.trial_s, key=lambda threads: self.trial_s[threads])


def measure(suite: Suite, sides: Sides, bursts: int, tell: Tell) -> Measured:
    """Alternate the sides for every round; both get the same requests in the same order."""
    seen = Measured()
    traffic = suite.traffic(SEED)
    _try_threads(suite, sides, next(traffic), seen, tell)
    for number in range(1, suite.rounds + 1):
        warm_up, *requests = [next(traffic) for _ in range(bursts + 1)]
        seen.requests.append(requests)
        with sides.baseline() as baseline:
            baseline.burst(warm_up, seen.best_threads)
            seen.baseline.append([baseline.burst(burst, seen.best_threads) for burst in requests])
        tell(f"round {number} of {suite.rounds}: baseline {_rates(seen.baseline[-1])} images a second")
        rng = random.Random(SEED)
        with sides.server() as server:
            server.run(warm_up, suite.arrivals, rng)
            seen.lego.append([server.run(burst, suite.arrivals, rng) for burst in requests])
            seen.ready_s.append(server.ready_s)
        tell(f"round {number} of {suite.rounds}: lego-serve {_rates(seen.lego[-1])} images a second")
    return seen


def _try_threads(suite: Suite, sides: Sides, requests: Sequence[ImageRequest], seen: Measured, tell: Tell) -> None:
    """Time single images with each thread count: which one is best depends on the machine and the model."""
    with sides.baseline() as baseline:
        seen.dtype = baseline.dtype
        for threads in suite.baseline_threads:
            baseline.burst(requests[:1], threads)
            seen.trial_s[threads] = summary.solo_s([[baseline.burst(requests[1:TRIAL_IMAGES], threads)]])
            tell(f"trial: baseline with {threads} thread(s), {seen.trial_s[threads]:.2f} s an image")


def _rates(bursts: Sequence[Sequence[Sample]]) -> str:
    return ", ".join(f"{summary.throughput_rps(burst):.2f}" for burst in bursts)


def summarise(suite: Suite, seen: Measured, context: dict[str, object]) -> dict[str, object]:
    """The content of ``summary.json``; ``context`` says where and how it was measured."""
    solo_s = summary.solo_s(seen.baseline)
    slo_s = suite.slo_scale * solo_s
    baseline, lego = summary.figures(seen.baseline, slo_s), summary.figures(seen.lego, slo_s)
    details: dict[str, object] = {
        **{name: context[name] for name in ("command", "commit", "date", "quick")},
        "dtype": seen.dtype,
        "rounds": suite.rounds,
        "bursts_per_round": len(seen.requests[0]),
        "requests_per_burst": suite.arrivals.requests,
        "baseline_threads": seen.best_threads,
        "baseline_trial_s": {str(threads): round(each, 4) for threads, each in seen.trial_s.items()},
        "solo_s": round(solo_s, 4),
        "slo_s": round(slo_s, 4),
        "spread": {"baseline": baseline.extremes, "lego": lego.extremes},
        "throughput_ratio_of_rounds": summary.round_ratios(seen.baseline, seen.lego),
        "failures": {"baseline": _failures(seen.baseline), "lego": _failures(seen.lego)},
        "server_ready_s": [round(each, 1) for each in seen.ready_s],
    }
    return {
        "suite": suite.name,
        "machine": context["machine"],
        "versions": context["versions"],
        "seed": SEED,
        "rate_rps": None,
        "slo": f"{suite.slo_scale:g}x solo",
        "baseline": {"name": BASELINE, **baseline.medians},
        "lego": {"name": "lego_serve", **lego.medians},
        "ratio": summary.ratios(baseline, lego),
        "quality": summary.image_differences(seen.baseline, seen.lego),
        "details": details,
    }


def _failures(rounds: summary.Rounds) -> int:
    return sum(not s.is_ok for bursts in rounds for burst in bursts for s in burst)


def compare(suite: Suite, sides: Sides, out: Path, *, quick: bool, tell: Tell) -> dict[str, object]:
    """Run the suite and write ``summary.json`` and ``report.html`` into ``out``; returns the summary."""
    context = describe_run(pin(CORES), quick=quick)
    out.mkdir(parents=True, exist_ok=True)
    seen = measure(suite, sides, suite.quick_bursts if quick else suite.bursts, tell)
    found = summarise(suite, seen, context)
    (out / "summary.json").write_text(json.dumps(found, indent=2) + "\n")
    last = (seen.baseline[-1][0], seen.lego[-1][0])
    write_report(out / "report.html", suite, seen.requests[-1][0], last, found)
    return found
