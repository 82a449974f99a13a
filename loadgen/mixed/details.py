"""What ``summary.json`` keeps under ``details``: how the numbers came about, failures included."""

import math
from collections.abc import Sequence
from dataclasses import asdict

from loadgen.mixed.objective import Attainment, Objective, Tally, Timed, attainment
from loadgen.mixed.plan import Effort, MixedSuite
from loadgen.mixed.rounds import Seen, SideRound
from loadgen.mixed.search import Search
from loadgen.mixed.sides import best
from loadgen.mixed.ways import alone_of, variants_of
from loadgen.summary import throughput_rps

LATENCY_NOTE = (
    "from the intended send time; a request without an image counts as waiting until the run ended, "
    "and for its objective at least"
)
SOLO_NOTE = (
    "baseline, warm, over HTTP, every size (one of each pair of turned ones), with and without guidance, at the "
    "fewest and the most steps; a line through both gives the rest"
)


def details_of(suite: MixedSuite, effort: Effort, seen: Seen) -> dict[str, object]:
    """Trials, objectives, rates tried, classes, failures."""
    sides = {"baseline": seen.baseline, "lego": seen.lego}
    return {
        "dtype": seen.dtype,
        "effort": asdict(effort),
        "baseline_layout": best(seen.layouts).name,
        "baseline_layout_trial_rps": {layout.name: round(rate, 3) for layout, rate in seen.layouts.items()},
        "baseline_compiled": asdict(seen.compiled) if seen.compiled else None,
        "plain_solo_s": {layout.name: round(each, 4) for layout, each in seen.plain_s.items()} or None,
        "lego_backbones_trial_rps": {str(count): round(rate, 3) for count, rate in seen.backbones.items()} or None,
        "deadline_ms_sent_to_lego": suite.sends_deadline,
        "latency": LATENCY_NOTE,
        "solo": SOLO_NOTE,
        "slo_table": _slo_table(seen.objective),
        "rates_rps": [round(rate, 4) for rate in seen.rates_rps],
        "ratios_of_rounds": _ratios_of_rounds(seen),
        "alone": alone_of(seen),
        "lego_variants": variants_of(suite, seen),
        "classes": {side: _classes(suite, seen.objective, rounds) for side, rounds in sides.items()},
        "search": {side: [_trace(each.search) for each in rounds] for side, rounds in sides.items()},
        "failures": {side: _failures(rounds) for side, rounds in sides.items()},
        "latest_send_s": {side: round(max(_lag_s(each.rated) for each in rounds), 4) for side, rounds in sides.items()},
        "ready_s": {side: [round(each.ready_s, 1) for each in rounds] for side, rounds in sides.items()},
    }


def _slo_table(objective: Objective) -> list[dict[str, object]]:
    return [
        {
            "size": f"{longer}x{shorter}",
            "guidance": guided,
            "controlnets": addons[0],
            "adapters": addons[1],
            "solo_constant_s": round(line.constant_s, 4),
            "solo_step_s": round(line.step_s, 5),
            "slo_of_20_steps_s": round(objective.scale * line.at(20), 3),
        }
        for (longer, shorter, guided, addons), line in objective.lines.items()
    ]


def _ratios_of_rounds(seen: Seen) -> dict[str, list[float | None]]:
    pairs = list(zip(seen.baseline, seen.lego, strict=True))
    return {
        "throughput": [
            _over(throughput_rps(ours.closed.samples), throughput_rps(theirs.closed.samples)) for theirs, ours in pairs
        ],
        "max_rate_at_90pct": [_over(ours.search.highest_rps, theirs.search.highest_rps) for theirs, ours in pairs],
    }


def _over(ours: float, theirs: float) -> float | None:
    return round(ours / theirs, 3) if theirs else None


def _classes(suite: MixedSuite, objective: Objective, rounds: Sequence[SideRound]) -> dict[str, dict[str, object]]:
    """Of the common rate, over all rounds together."""
    reached = [attainment(each.rated, objective.slo_s, suite) for each in rounds]
    return {kind.name: _tally(sum((r.classes[kind.name] for r in reached), Tally(0, 0))) for kind in suite.classes}


def _tally(tally: Tally) -> dict[str, object]:
    return {"attainment": round(tally.ratio, 4), "met": tally.met, "asked": tally.asked}


def _trace(found: Search) -> dict[str, object]:
    return {
        "highest_rps": round(found.highest_rps, 4),
        "met_no_limit": math.isinf(found.lowest_failed_rps),
        "probes": [
            {"rate_rps": round(p.rate_rps, 4), "passed": p.is_passed, **_reached(p.attainment)} for p in found.probes
        ],
    }


def _reached(reached: Attainment) -> dict[str, object]:
    return {
        "attainment": round(reached.ratio, 4),
        "classes": {name: round(tally.ratio, 4) for name, tally in reached.classes.items()},
        "requests": sum(tally.asked for tally in reached.classes.values()),
        "failures": reached.failures,
    }


def _failures(rounds: Sequence[SideRound]) -> dict[str, object]:
    """Requests without an image by phase, and a few of the answers that came instead."""
    kept = [sample for each in rounds for timed in (each.closed, each.rated) for sample in timed.samples]
    answers = list(dict.fromkeys(sample.reply.error for sample in kept if not sample.is_ok))
    return {
        "closed": sum(each.closed.failures for each in rounds),
        "search": sum(probe.attainment.failures for each in rounds for probe in each.search.probes),
        "common_rate": sum(each.rated.failures for each in rounds),
        "answers": answers[:3],
    }


def _lag_s(timed: Timed) -> float:
    """How late the client itself was at worst: what it must not be for the latencies to be the server's."""
    return max(sample.sent_s - sample.due_s for sample in timed.samples)
