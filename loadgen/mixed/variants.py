"""The figures of lego's variants, of images made alone, and of one pair of loops."""

from collections.abc import Mapping, Sequence

from loadgen.mixed.objective import Objective, TimedRun, attainment, latencies_s
from loadgen.mixed.plan import MixedSuite
from loadgen.mixed.rounds import Measurements
from loadgen.stats import median
from loadgen.summary import latency_figures, throughput_rps


def loop_figures(closed: TimedRun, rated: TimedRun, objective: Objective, suite: MixedSuite) -> dict[str, float]:
    """Return the throughput of the closed loop, and the latencies and attainment of the common rate."""
    return {
        **latency_figures(latencies_s(rated, objective.slo_s)),
        "throughput_rps": throughput_rps(closed.samples),
        "attainment": attainment(rated, objective.slo_s, suite).ratio,
    }


def alone_times(measured: Measurements) -> dict[str, object] | None:
    """Return both systems' median seconds for the same images one after the other; None where none were sent."""
    baseline, lego = (_alone_s([each.alone for each in rounds]) for rounds in (measured.baseline, measured.lego))
    if baseline is None or lego is None:
        return None
    count = sum(len(of_round.alone.requests) for of_round in measured.lego)
    return {"requests": count, "baseline_s": baseline, "lego_s": lego, "ratio": round(lego / baseline, 3)}


def variant_results(suite: MixedSuite, measured: Measurements) -> dict[str, dict[str, object]] | None:
    """Return lego's variants by name, medians over rounds, and lego as usual over each; None where there are none."""
    return {name: _variant_result(suite, measured, name) for name in measured.lego[-1].variants} or None


def _variant_result(suite: MixedSuite, measured: Measurements, name: str) -> dict[str, object]:
    rounds = [of_round.variants[name] for of_round in measured.lego]
    own = _medians([loop_figures(each.closed, each.rated, measured.objective, suite) for each in rounds])
    usual = _medians([loop_figures(each.closed, each.rated, measured.objective, suite) for each in measured.lego])
    return {
        **{key: round(value, 4) for key, value in own.items()},
        "alone_s": _alone_s([of_round.alone for of_round in rounds]),
        "failures": sum(run.failures for of_round in rounds for run in (of_round.closed, of_round.rated)),
        "usual_over_it": {
            "throughput": round(usual["throughput_rps"] / own["throughput_rps"], 3),
            "mean": round(usual["mean_s"] / own["mean_s"], 3),
        },
    }


def _medians(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {key: median([figures[key] for figures in rounds]) for key in rounds[0]}


def _alone_s(runs: Sequence[TimedRun]) -> float | None:
    times = [sample.service_s for run in runs for sample in run.samples if sample.is_ok]
    return round(median(times), 4) if times else None
