"""The ``details`` of ``summary.json``: how the numbers came about, failures included."""

import math
from collections.abc import Sequence
from dataclasses import asdict

from loadgen.mixed.objective import Attainment, Objective, Tally, TimedRun, attainment
from loadgen.mixed.plan import Effort, MixedSuite
from loadgen.mixed.rounds import Measurements, SystemRound
from loadgen.mixed.search import Search
from loadgen.mixed.trials import best_layout
from loadgen.mixed.variants import alone_times, variant_results
from loadgen.summary import throughput_rps

LATENCY_NOTE = (
    "from the intended send time; a request without an image counts as waiting until the run ended, "
    "and for its objective at least"
)
SOLO_NOTE = (
    "baseline, warm, over HTTP, every size (one of each pair of turned ones), with and without guidance, at the "
    "fewest and the most steps; a line through both gives the rest"
)


def run_details(suite: MixedSuite, effort: Effort, measured: Measurements) -> dict[str, object]:
    """Return trials, objectives, rates tried, classes and failures."""
    systems = {"baseline": measured.baseline, "lego": measured.lego}
    plain_s = {layout.name: round(seconds, 4) for layout, seconds in measured.plain_s.items()}
    backbones = {str(count): round(rate, 3) for count, rate in measured.backbones.items()}
    return {
        "dtype": measured.dtype,
        "effort": asdict(effort),
        "baseline_layout": best_layout(measured.layouts).name,
        "baseline_layout_trial_rps": {layout.name: round(rate, 3) for layout, rate in measured.layouts.items()},
        "baseline_compiled": asdict(measured.compiled) if measured.compiled else None,
        "plain_solo_s": plain_s or None,
        "lego_backbones_trial_rps": backbones or None,
        "deadline_ms_sent_to_lego": suite.sends_deadline,
        "latency": LATENCY_NOTE,
        "solo": SOLO_NOTE,
        "slo_table": _slo_table(measured.objective),
        "rates_rps": [round(rate, 4) for rate in measured.rates_rps],
        "ratios_of_rounds": _round_ratios(measured),
        "alone": alone_times(measured),
        "lego_variants": variant_results(suite, measured),
        "classes": {name: _class_tallies(suite, measured.objective, rounds) for name, rounds in systems.items()},
        "search": {name: [_search_trace(each.search) for each in rounds] for name, rounds in systems.items()},
        "failures": {name: _failures(rounds) for name, rounds in systems.items()},
        "latest_send_s": {
            name: round(max(_send_lag_s(each.rated) for each in rounds), 4) for name, rounds in systems.items()
        },
        "ready_s": {name: [round(each.ready_s, 1) for each in rounds] for name, rounds in systems.items()},
    }


def _slo_table(objective: Objective) -> list[dict[str, object]]:
    return [
        {
            "size": f"{longer}x{shorter}",
            "guidance": is_guided,
            "controlnets": addons[0],
            "adapters": addons[1],
            "solo_constant_s": round(solo.constant_s, 4),
            "solo_step_s": round(solo.step_s, 5),
            "slo_of_20_steps_s": round(objective.scale * solo.seconds(20), 3),
        }
        for (longer, shorter, is_guided, addons), solo in objective.solo_times.items()
    ]


def _round_ratios(measured: Measurements) -> dict[str, list[float | None]]:
    pairs = list(zip(measured.baseline, measured.lego, strict=True))
    return {
        "throughput": [
            _ratio(throughput_rps(lego.closed.samples), throughput_rps(baseline.closed.samples))
            for baseline, lego in pairs
        ],
        "max_rate_at_90pct": [_ratio(lego.search.highest_rps, baseline.search.highest_rps) for baseline, lego in pairs],
    }


def _ratio(lego: float, baseline: float) -> float | None:
    return round(lego / baseline, 3) if baseline else None


def _class_tallies(
    suite: MixedSuite, objective: Objective, rounds: Sequence[SystemRound]
) -> dict[str, dict[str, object]]:
    """Return each class's tally at the common rate, over all rounds together."""
    reached = [attainment(each.rated, objective.slo_s, suite) for each in rounds]
    tallies = {kind.name: sum((r.classes[kind.name] for r in reached), Tally(0, 0)) for kind in suite.classes}
    return {
        name: {"attainment": round(tally.ratio, 4), "met": tally.met, "asked": tally.asked}
        for name, tally in tallies.items()
    }


def _search_trace(search: Search) -> dict[str, object]:
    return {
        "highest_rps": round(search.highest_rps, 4),
        "met_no_limit": math.isinf(search.lowest_failed_rps),
        "probes": [
            {"rate_rps": round(probe.rate_rps, 4), "passed": probe.is_passed, **_attainment_row(probe.attainment)}
            for probe in search.probes
        ],
    }


def _attainment_row(reached: Attainment) -> dict[str, object]:
    return {
        "attainment": round(reached.ratio, 4),
        "classes": {name: round(tally.ratio, 4) for name, tally in reached.classes.items()},
        "requests": sum(tally.asked for tally in reached.classes.values()),
        "failures": reached.failures,
    }


def _failures(rounds: Sequence[SystemRound]) -> dict[str, object]:
    """Return the requests without an image by phase, and a few of the answers that came instead."""
    samples = [sample for each in rounds for run in (each.closed, each.rated) for sample in run.samples]
    answers = list(dict.fromkeys(sample.reply.error for sample in samples if not sample.is_ok))
    return {
        "closed": sum(each.closed.failures for each in rounds),
        "search": sum(probe.attainment.failures for each in rounds for probe in each.search.probes),
        "common_rate": sum(each.rated.failures for each in rounds),
        "answers": answers[:3],
    }


def _send_lag_s(run: TimedRun) -> float:
    """Return how late the client itself was at worst; latencies are the server's only while this is small."""
    return max(sample.sent_s - sample.due_s for sample in run.samples)
