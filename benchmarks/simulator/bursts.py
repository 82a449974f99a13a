"""Bursts that are tolerated, GPUs that are needed, and what is left of goodput far beyond saturation."""

import math
import random

from benchmarks.simulator.loads import (
    GOAL,
    artifact,
    attainment,
    gpus_needed,
    pattern,
    random_load,
    run,
)
from benchmarks.simulator.tables import Kept, Result, verdict
from lego_serve.core.cluster.autoscaling import ScalerRule
from lego_serve.sim.charts import Point, bars
from lego_serve.sim.cluster import Setting
from lego_serve.sim.policies.names import lego_options
from lego_serve.sim.policies.scaled import ScaledLego
from lego_serve.sim.statistics import highest, mean_of
from lego_serve.sim.workload import Request, requests_of, retimed

NAMES = ("static", "static+drop", "packed+drop", "diflow", "diflow-no-admission", "lego", "bound best batch")
RATE = 2.0
SEEDS = (31, 32, 33, 34, 35)
SCALES = ("1.0", "2.0", "4.0", "8.0")


def table(kept: Kept, *, quick: bool) -> Result:
    """The coefficient of variation of arrivals that each tolerates at 2 requests a second."""
    setting = artifact()
    seeds = SEEDS[:2] if quick else SEEDS

    def tolerated(name: str, seed: int) -> float:
        def served(cv: float) -> bool:
            load = retimed(random_load(setting, seed, cv=cv), RATE)
            return attainment(setting, load, name) >= GOAL

        return round(highest(served, 0.5, 5.0, 0.05), 2)

    found = {name: [kept(f"cv {name} {seed}", tolerated, name, seed) for seed in seeds] for name in NAMES}
    rows = []
    for name, values in found.items():
        over = mean_of([a / b for a, b in zip(values, found["bound best batch"], strict=True)])
        rows.append([name, *(f"{each:.2f}" for each in values), mean_of(values), over])
    better = max(("diflow", "diflow-no-admission"), key=lambda name: sum(found[name]))
    ratio = mean_of([a / b for a, b in zip(found["lego"], found[better], strict=True)])
    points = {name: mean_of(values) for name, values in found.items()}
    chart = bars({name: Point(0, each.mean, each.low, each.high) for name, each in points.items()}, "CV tolerated")
    return Result(
        "Bursts",
        "The highest coefficient of variation of gamma gaps at which 90 % are served in time, at 2 requests a second "
        "on eight GPUs; SLO 2 times the latency alone.",
        ["", *(f"seed {seed}" for seed in seeds), "mean", "over the bound"],
        rows,
        [f"the better diflow is {better}", verdict("lego over the better diflow", ratio.mean, 1.35)],
        [("Burst tolerance", "Coefficient of variation at 90 %, 2 requests a second.", chart)],
    )


def gpus(kept: Kept, *, quick: bool) -> Result:
    """The GPUs that each needs for DiFlow's traces."""
    setting = artifact()
    names = ("packed+drop", "diflow", "diflow-no-admission", "lego", "bound best batch")
    scales = SCALES[:2] if quick else SCALES
    found = {
        name: [kept(f"gpus {name} {scale}", gpus_needed, setting, pattern(setting, scale), name) for scale in scales]
        for name in names
    }
    ratio = mean_of([a / b for a, b in zip(found["lego"], found["diflow"], strict=True)])
    rows = [[name, *values, f"{sum(values) / len(values):.2f}"] for name, values in found.items()]
    chart = bars({name: sum(values) / len(values) for name, values in found.items()}, "GPUs")
    return Result(
        "GPUs needed",
        "The fewest GPUs that serve 90 % of DiFlow's traces in time, by rate scale; SLO 2 times the latency alone.",
        ["", *scales, "mean"],
        rows,
        [verdict("lego over diflow as shipped", ratio.mean, 0.80, at_most=True)],
        [("GPUs needed", "Mean over DiFlow's rate scales.", chart)],
    )


def autoscaling(kept: Kept, *, quick: bool) -> Result:
    """A number of workers that follows a load of waves, against a fixed one."""
    setting = artifact(12)
    requests = _waves(setting, 400.0 if quick else 2400.0)
    span_s = requests[-1].at_s
    rows: list[list[object]] = []
    for name, start_s in (("12 always", 0.0), ("scaled, 10 s to start", 10.0), ("scaled, 30 s to start", 30.0)):
        scaled = ScaledLego(lego_options(), ScalerRule(0.6, 5.0, 60.0, 20.0), 2, start_s)
        outcome = run(setting, requests, "lego" if not start_s else lambda scaled=scaled: scaled)  # type: ignore[misc]
        gpus = outcome.notes.get("gpu_s_active", 12 * span_s) / span_s
        changes = outcome.notes.get("changes", 0)
        rows.append([name, f"{outcome.attainment:.1%}", f"{gpus:.2f}", outcome.notes.get("most", 12), changes])
    return Result(
        "Workers that follow the load",
        f"{len(requests)} requests in {span_s:.0f} s, a rate that swings from 0.5 to 4.5 a second in ten minutes; "
        "new workers are empty. SLO 2 times the latency alone.",
        ["", "in time", "mean GPUs", "most", "changes"],
        rows,
    )


def _waves(setting: Setting, span_s: float) -> list[Request]:
    """Poisson arrivals whose rate is a sine, by thinning those of the highest rate."""
    rng, now, times = random.Random(51), 0.0, list[float]()
    while now < span_s:
        now += rng.expovariate(4.5)
        if rng.random() * 4.5 < 2.5 - 2.0 * math.cos(2 * math.pi * now / 600.0):
            times.append(now)
    return requests_of(times, setting.shares, setting.slo_s, rng)


def overload(kept: Kept, *, quick: bool) -> Result:
    """Goodput at ten times the capacity over the peak."""
    setting = artifact()
    count = 1500 if quick else 4000
    rates = (3.0, 4.0, 4.5, 6.0, 10.0, 40.0)
    names = ("static", "packed+drop", "diflow", "diflow-no-admission", "lego-newest-only", "lego")
    goodputs = {
        name: [kept(f"overload {name} {rate} {count}", _goodput, setting, name, rate, count) for rate in rates]
        for name in names
    }
    rows = [
        [name, *(f"{each:.2f}" for each in values), f"{values[-1] / max(values):.0%}"]
        for name, values in goodputs.items()
    ]
    lego = goodputs["lego"]
    return Result(
        "Ten times overload",
        f"Requests served in time a second, Poisson arrivals of {count} requests (at least 60 s) at rates up to ten "
        "times what eight GPUs can serve; SLO 2 times the latency alone.",
        ["", *(f"{rate:g}" for rate in rates), "at 40 over the peak"],
        rows,
        [verdict("lego's goodput at 40 requests a second over its peak", lego[-1] / max(lego), 0.95)],
    )


def _goodput(cluster: Setting, name: str, rate: float, count: int) -> float:
    length = max(count, round(60 * rate))
    requests = retimed(random_load(cluster, 41, length), rate)
    outcome = run(cluster, requests, name)
    end_s = max(each.at_s for each in outcome.ended)
    return sum(each.status == "met" for each in outcome.ended) / end_s
