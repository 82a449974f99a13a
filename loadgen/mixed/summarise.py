"""Turns measurements into ``summary.json``: medians over rounds, with the extremes kept."""

import math
from collections.abc import Mapping, Sequence

from loadgen.mixed.bench import Bench
from loadgen.mixed.details import run_details
from loadgen.mixed.hooks import ReportSupplement
from loadgen.mixed.objective import Objective, TimedRun
from loadgen.mixed.plan import MixedSuite
from loadgen.mixed.rounds import Measurements, SystemRound
from loadgen.mixed.variants import loop_figures
from loadgen.stats import Spread, median
from loadgen.summary import Comparison, Figures, image_differences

IMAGES = 12  # compared, and shown in the report


def figures(rounds: Sequence[SystemRound], objective: Objective, suite: MixedSuite) -> Figures:
    """Return the numbers of one system: a spread over rounds for each key."""
    values = [_round_figures(of_round, objective, suite) for of_round in rounds]
    return Figures({key: Spread.of([value[key] for value in values]) for key in values[0]})


def _round_figures(measured: SystemRound, objective: Objective, suite: MixedSuite) -> dict[str, float]:
    loops = loop_figures(measured.closed, measured.rated, objective, suite)
    return {**loops, "max_rate_at_90pct": measured.search.highest_rps}


def sampled_pairs(measured: Measurements) -> tuple[TimedRun, TimedRun]:
    """Return a dozen requests of the last round that both systems answered, spread evenly over its common rate."""
    baseline, lego = measured.baseline[-1].rated, measured.lego[-1].rated
    both = [
        (request, one, other)
        for (request, one), other in zip(baseline, lego.samples, strict=True)
        if one.is_ok and other.is_ok
    ]
    chosen = both[:: max(1, math.ceil(len(both) / IMAGES))]
    requests = [request for request, _, _ in chosen]
    return TimedRun(requests, [one for _, one, _ in chosen]), TimedRun(requests, [other for _, _, other in chosen])


def summarise(
    bench: Bench, seed: int, measured: Measurements, context: Mapping[str, object], supplement: ReportSupplement
) -> dict[str, object]:
    """Return the content of ``summary.json``; ``context`` says where and how it was measured."""
    suite = bench.suite
    baseline_images, lego_images = sampled_pairs(measured)
    comparison = Comparison(
        suite=suite.name,
        seed=seed,
        slo_scale=suite.slo_scale,
        rate_rps=round(median(measured.rates_rps), 4),
        baseline_name=suite.baseline,
        baseline=figures(measured.baseline, measured.objective, suite),
        lego=figures(measured.lego, measured.objective, suite),
        quality={
            **image_differences([[baseline_images.samples]], [[lego_images.samples]]),
            **measured.inspected,
            **supplement.quality,
        },
    )
    details = run_details(suite, bench.effort, measured)
    return comparison.document(context, {**details, "suite": dict(supplement.about)})
