"""One way of asking a side: its numbers, one image alone, and lego's other ways beside its usual one."""

from collections.abc import Mapping, Sequence

from loadgen import summary
from loadgen.mixed.objective import Objective, Timed, attainment, latencies_s
from loadgen.mixed.plan import MixedSuite
from loadgen.mixed.rounds import Seen
from loadgen.stats import median, percentile


def loop_figures(closed: Timed, rated: Timed, objective: Objective, suite: MixedSuite) -> dict[str, float]:
    """Throughput of the closed loop, latencies and attainment of the common rate."""
    latencies = latencies_s(rated, objective.slo_s)
    return {
        "mean_s": sum(latencies) / len(latencies),
        "p50_s": percentile(latencies, 0.5),
        "p95_s": percentile(latencies, 0.95),
        "throughput_rps": summary.throughput_rps(closed.samples),
        "attainment": attainment(rated, objective.slo_s, suite).ratio,
    }


def alone_of(seen: Seen) -> dict[str, object] | None:
    """Both sides' usual seconds for the same images sent one after the other; None where the suite sends none."""
    theirs, ours = (_alone_s([each.alone for each in rounds]) for rounds in (seen.baseline, seen.lego))
    if theirs is None or ours is None:
        return None
    count = sum(len(each.alone.requests) for each in seen.lego)
    return {"requests": count, "baseline_s": theirs, "lego_s": ours, "ratio": round(ours / theirs, 3)}


def variants_of(suite: MixedSuite, seen: Seen) -> dict[str, dict[str, object]] | None:
    """Lego's other ways by name, medians over rounds, and its usual way over each of them."""
    found = {name: _variant(suite, seen, name) for name in seen.lego[-1].variants}
    return found or None


def _variant(suite: MixedSuite, seen: Seen, name: str) -> dict[str, object]:
    rounds = [each.variants[name] for each in seen.lego]
    own = _medians([loop_figures(each.closed, each.rated, seen.objective, suite) for each in rounds])
    usual = _medians([loop_figures(each.closed, each.rated, seen.objective, suite) for each in seen.lego])
    return {
        **{key: round(value, 4) for key, value in own.items()},
        "alone_s": _alone_s([each.alone for each in rounds]),
        "failures": sum(timed.failures for each in rounds for timed in (each.closed, each.rated)),
        "usual_over_it": {
            "throughput": round(usual["throughput_rps"] / own["throughput_rps"], 3),
            "mean": round(usual["mean_s"] / own["mean_s"], 3),
        },
    }


def _medians(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {key: median([each[key] for each in rounds]) for key in rounds[0]}


def _alone_s(rounds: Sequence[Timed]) -> float | None:
    times = [sample.done_s - sample.sent_s for timed in rounds for sample in timed.samples if sample.is_ok]
    return round(median(times), 4) if times else None
