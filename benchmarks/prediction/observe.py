"""Runs a suite as the load generator does, on real or on simulated systems, and then both at shares of the limit.

One code makes predictions and measurements, so that both have the same requests, times, objectives and figures.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from benchmarks.prediction.noted import NotedStart
from benchmarks.prediction.observation import Load, LoadFigures, Observation, Sent, plan_digest
from benchmarks.prediction.suites import FACTORS, SEED, goodput_effort, goodput_factors, mixed_effort
from loadgen.client import Deadline, Sample
from loadgen.goodput.plan import GoodputSuite
from loadgen.goodput.run import GoodputBench, GoodputSystems
from loadgen.goodput.summarise import GoodputSide, goodput_ratio, rate_at_share
from loadgen.mixed.bench import Bench, warm_up
from loadgen.mixed.hooks import SuiteHooks
from loadgen.mixed.objective import TimedRun
from loadgen.mixed.plan import MixedSuite
from loadgen.mixed.rounds import Measurements, measure
from loadgen.mixed.search import Clock
from loadgen.mixed.systems import MixedSystems
from loadgen.mixed.trials import best_layout
from loadgen.mixed.workload import FIRST_PROBE
from loadgen.progress import OnLine
from loadgen.server import Server
from loadgen.stats import median
from loadgen.traffic import Poisson

LOADS = FIRST_PROBE + 8  # phases after those of a search with the most probes
Runs = dict[float, list[TimedRun]]


@dataclass(frozen=True, slots=True)
class Watch:
    """The clock of the systems, and who hears how far a run is."""

    clock: Clock
    on_line: OnLine


def observe_mixed(
    suite: MixedSuite,
    systems: MixedSystems,
    hooks: SuiteHooks,
    watch: Watch,
    *,
    quick: bool,
    limit_rps: float | None = None,
) -> Observation:
    """Measure a suite, and both systems at shares of ``limit_rps``; without it of the highest rate found here."""
    bench = Bench(
        suite,
        mixed_effort(suite, quick=quick),
        hooks.workload,
        systems,
        watch.on_line,
        watch.clock,
        watch.clock(),
        storage=hooks.storage,
    )
    measured = measure(bench)
    highest = {
        name: median([each.search.highest_rps for each in rounds]) or None
        for name, rounds in (("baseline", measured.baseline), ("lego", measured.lego))
    }
    if limit_rps is None:
        limit_rps = highest["lego"]
    if not limit_rps:
        raise ValueError(f"suite {suite.name}: lego_serve met its objective at no rate, so that there is no limit")
    rates = {factor: factor * limit_rps for factor in FACTORS}
    baseline, lego = _at_loads(bench, measured, rates)
    sent = [
        Sent(number, factor, run.requests, [each.due_s for each in run.samples])
        for factor in rates
        for number, run in enumerate(lego[factor], start=1)
    ]
    slo_s = measured.objective.slo_s
    loads = tuple(Load(f, rates[f], _mixed_figures(baseline[f], slo_s), _mixed_figures(lego[f], slo_s)) for f in rates)
    return Observation(
        suite.name, plan_digest(suite.name, sent), limit_rps, loads, highest, _ratio(highest), "highest rate"
    )


def _at_loads(bench: Bench, measured: Measurements, rates: Mapping[float, float]) -> tuple[Runs, Runs]:
    """Put the loads on both systems in turn, each started anew and warmed up in every round."""
    baseline: Runs = {factor: [] for factor in rates}
    lego: Runs = {factor: [] for factor in rates}
    backbones = measured.backbones
    count = max(backbones, key=lambda n: backbones[n]) if backbones else None
    deadline_s = measured.objective.slo_s if bench.suite.sends_deadline else None
    for number in range(1, bench.effort.rounds + 1):
        turns: tuple[tuple[AbstractContextManager[Server], Runs, Deadline | None, int], ...] = (
            (bench.systems.baseline(best_layout(measured.layouts), False), baseline, None, bench.effort.warm_ups),
            (bench.systems.lego(count), lego, deadline_s, bench.effort.lego_warm_ups),
        )
        for start, runs, sends_s, warm_ups in turns:
            with start as server:
                warm_up(bench, server, number, warm_ups)
                for index, (factor, rate_rps) in enumerate(rates.items()):
                    runs[factor].append(_run(bench, server, number, LOADS + index, rate_rps, sends_s))
                    bench.on_line(f"round {number}: at {factor:g} of the limit, {rate_rps:.2f} a second: done")
    return baseline, lego


def _run(
    bench: Bench, server: Server, number: int, phase: int, rate_rps: float, deadline_s: Deadline | None
) -> TimedRun:
    effort, workload = bench.effort, bench.workload
    count = max(effort.fewest_requests, math.ceil(rate_rps * effort.probe_s))
    requests = workload.requests(number, phase, count)
    samples = server.run(requests, Poisson(count, rate_rps), workload.arrival_rng(number, phase), deadline_s)
    return TimedRun(requests, samples)


def _mixed_figures(runs: Sequence[TimedRun], slo_s: Deadline) -> LoadFigures:
    return _figures([(sample, slo_s(request)) for run in runs for request, sample in run])


def _figures(found: Sequence[tuple[Sample, float]]) -> LoadFigures:
    """Return the figures of samples, each with its objective; a refusal is a miss and has no latency."""
    made_s = [sample.latency_s for sample, _ in found if sample.is_ok]
    return LoadFigures.of(made_s, [sample.is_ok and sample.latency_s <= slo_s for sample, slo_s in found])


def observe_goodput(
    suite: GoodputSuite, systems: GoodputSystems, watch: Watch, *, quick: bool, limit_rps: float | None = None
) -> Observation:
    """Measure a suite at its own loads and those of every prediction, as shares of ``limit_rps``.

    Without it they are shares of what the baseline makes here when it is always full.
    """
    noted: list[NotedStart] = []

    def lego() -> NotedStart:
        noted.append(NotedStart(systems.lego()))
        return noted[-1]

    bench = GoodputBench(
        suite, goodput_effort(suite, quick=quick), GoodputSystems(systems.baseline, lego), watch.on_line
    )
    layout = bench.try_layouts()
    solo_s, own = bench.objective_of(layout)
    if limit_rps is None:
        limit_rps = own[suite.loads[0]] / suite.loads[0]
    rates = {factor: factor * limit_rps for factor in goodput_factors(suite)}
    sides = bench.measure(layout, rates, solo_s)
    slo_s = suite.slo_scale * solo_s
    figures = [{factor: _goodput_figures(side, factor, slo_s) for factor in rates} for side in sides]
    loads = tuple(Load(factor, rate, figures[0][factor], figures[1][factor]) for factor, rate in rates.items())
    highest = {
        name: rate_at_share([(rate, each[factor].attainment) for factor, rate in rates.items()])
        for name, each in zip(("baseline", "lego"), figures, strict=True)
    }
    sent = [
        Sent(number, factor, requests, due_s)
        for number, start in enumerate(noted, start=1)
        for factor, (requests, due_s) in zip(rates, start.open_runs, strict=True)
    ]
    ratio, ratio_of = _ratio(highest), "highest rate"
    if ratio is None:
        pairs = [(sides[0].samples[load], sides[1].samples[load]) for load in suite.loads]
        ratio = goodput_ratio(*pairs[-1], slo_s, SEED)["ratio"]
        ratio_of = f"answered in time at {suite.loads[-1]:g} of the limit"
    return Observation(suite.name, plan_digest(suite.name, sent), limit_rps, loads, highest, ratio, ratio_of)


def _goodput_figures(side: GoodputSide, factor: float, slo_s: float) -> LoadFigures:
    return _figures([(sample, slo_s) for each in side.samples[factor] for sample in each])


def _ratio(highest: Mapping[str, float | None]) -> float | None:
    below, above = highest["baseline"], highest["lego"]
    return above / below if below and above else None
