"""Runs a suite of bursts: baseline and server in turn, on the same cores, with the same requests."""

import json
import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from loadgen import summary
from loadgen.bursts.plan import Suite
from loadgen.bursts.report import write_report
from loadgen.client import Sample
from loadgen.machine import CORES, describe_run, pin
from loadgen.progress import OnLine
from loadgen.server import Server
from loadgen.traffic import ImageRequest

SEED = 0
TRIAL_IMAGES = 4  # one of them to warm up
BASELINE = "diffusers-in-process"


class Baseline(Protocol):
    """A diffusers pipeline that answers bursts with a given number of threads."""

    dtype: str

    def burst(self, requests: Sequence[ImageRequest], threads: int) -> list[Sample]:
        """Make the images, all due at the start."""
        ...


@dataclass(frozen=True, slots=True)
class Systems:
    """How to start each of the compared systems for a round."""

    baseline: Callable[[], AbstractContextManager[Baseline]]
    server: Callable[[], AbstractContextManager[Server]]


@dataclass(slots=True)
class BurstMeasurements:
    """Everything measured so far: the trial's seconds per image by threads, and rounds of bursts of both systems."""

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


def measure(suite: Suite, systems: Systems, bursts: int, on_line: OnLine) -> BurstMeasurements:
    """Run the rounds, in each of which both systems get the same requests in the same order."""
    measured = BurstMeasurements()
    traffic = suite.traffic(SEED)
    _try_threads(suite, systems, next(traffic), measured, on_line)
    for number in range(1, suite.rounds + 1):
        warm_up, *requests = [next(traffic) for _ in range(bursts + 1)]
        measured.requests.append(requests)
        with systems.baseline() as baseline:
            baseline.burst(warm_up, measured.best_threads)
            measured.baseline.append([baseline.burst(burst, measured.best_threads) for burst in requests])
        on_line(f"round {number} of {suite.rounds}: baseline {_rates(measured.baseline[-1])} images a second")
        rng = random.Random(SEED)
        with systems.server() as server:
            server.run(warm_up, suite.arrivals, rng)
            measured.lego.append([server.run(burst, suite.arrivals, rng) for burst in requests])
            measured.ready_s.append(server.ready_s)
        on_line(f"round {number} of {suite.rounds}: lego-serve {_rates(measured.lego[-1])} images a second")
    return measured


def _try_threads(
    suite: Suite, systems: Systems, requests: Sequence[ImageRequest], measured: BurstMeasurements, on_line: OnLine
) -> None:
    """Time single images with each thread count: which one is best depends on the machine and the model."""
    with systems.baseline() as baseline:
        measured.dtype = baseline.dtype
        for threads in suite.baseline_threads:
            baseline.burst(requests[:1], threads)
            measured.trial_s[threads] = summary.solo_s([[baseline.burst(requests[1:TRIAL_IMAGES], threads)]])
            on_line(f"trial: baseline with {threads} thread(s), {measured.trial_s[threads]:.2f} s an image")


def _rates(bursts: Sequence[Sequence[Sample]]) -> str:
    return ", ".join(f"{summary.throughput_rps(burst):.2f}" for burst in bursts)


def summarise(suite: Suite, measured: BurstMeasurements, context: dict[str, object]) -> dict[str, object]:
    """Return the content of ``summary.json``; ``context`` says where and how it was measured."""
    solo_s = summary.solo_s(measured.baseline)
    slo_s = suite.slo_scale * solo_s
    comparison = summary.Comparison(
        suite=suite.name,
        seed=SEED,
        slo_scale=suite.slo_scale,
        rate_rps=None,
        baseline_name=BASELINE,
        baseline=summary.figures(measured.baseline, slo_s),
        lego=summary.figures(measured.lego, slo_s),
        quality=summary.image_differences(measured.baseline, measured.lego),
    )
    details: dict[str, object] = {
        "dtype": measured.dtype,
        "rounds": suite.rounds,
        "bursts_per_round": len(measured.requests[0]),
        "requests_per_burst": suite.arrivals.requests,
        "baseline_threads": measured.best_threads,
        "baseline_trial_s": {str(threads): round(seconds, 4) for threads, seconds in measured.trial_s.items()},
        "solo_s": round(solo_s, 4),
        "slo_s": round(slo_s, 4),
        "throughput_ratio_of_rounds": summary.round_ratios(measured.baseline, measured.lego),
        "failures": {"baseline": _failures(measured.baseline), "lego": _failures(measured.lego)},
        "server_ready_s": [round(seconds, 1) for seconds in measured.ready_s],
    }
    return comparison.document(context, details)


def _failures(rounds: summary.Rounds) -> int:
    return sum(not s.is_ok for bursts in rounds for burst in bursts for s in burst)


def compare_bursts(suite: Suite, systems: Systems, out: Path, *, quick: bool, on_line: OnLine) -> dict[str, object]:
    """Run the suite, write ``summary.json`` and ``report.html`` into ``out``, and return the summary."""
    context = describe_run(pin(CORES), quick=quick)
    out.mkdir(parents=True, exist_ok=True)
    measured = measure(suite, systems, suite.quick_bursts if quick else suite.bursts, on_line)
    document = summarise(suite, measured, context)
    (out / "summary.json").write_text(json.dumps(document, indent=2) + "\n")
    last_bursts = (measured.baseline[-1][0], measured.lego[-1][0])
    write_report(out / "report.html", suite, measured.requests[-1][0], last_bursts, document)
    return document
