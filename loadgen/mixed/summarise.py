"""From what was seen to ``summary.json``; medians over rounds, with the extremes kept."""

import math
from collections.abc import Mapping, Sequence

from loadgen import summary
from loadgen.mixed.details import details_of
from loadgen.mixed.extras import View
from loadgen.mixed.objective import Objective, Timed
from loadgen.mixed.plan import Effort, MixedSuite
from loadgen.mixed.rounds import Seen, SideRound
from loadgen.mixed.ways import loop_figures
from loadgen.stats import Spread, median
from loadgen.summary import Figures

BASELINE = "diffusers-monolith"
IMAGES = 12  # compared, and shown in the report


def figures(rounds: Sequence[SideRound], objective: Objective, suite: MixedSuite) -> Figures:
    """One side's numbers: a spread over rounds for each key."""
    values = [_of_round(each, objective, suite) for each in rounds]
    return Figures({key: Spread.of([value[key] for value in values]) for key in values[0]})


def _of_round(seen: SideRound, objective: Objective, suite: MixedSuite) -> dict[str, float]:
    loops = loop_figures(seen.closed, seen.rated, objective, suite)
    return {**loops, "max_rate_at_90pct": seen.search.highest_rps}


def sampled_pairs(seen: Seen) -> tuple[Timed, Timed]:
    """A dozen requests of the last round that both sides answered, from its beginning to its end."""
    theirs, ours = seen.baseline[-1].rated, seen.lego[-1].rated
    both = [
        (request, one, other)
        for (request, one), other in zip(theirs, ours.samples, strict=True)
        if one.is_ok and other.is_ok
    ]
    chosen = both[:: max(1, math.ceil(len(both) / IMAGES))]
    requests = [request for request, _, _ in chosen]
    return Timed(requests, [one for _, one, _ in chosen]), Timed(requests, [other for _, _, other in chosen])


def summarise(
    suite: MixedSuite,
    effort: Effort,
    seed: int,
    seen: Seen,
    context: Mapping[str, object],
    view: View,
) -> dict[str, object]:
    """The content of ``summary.json``; ``context`` says where and how it was measured, ``view`` what of."""
    baseline = figures(seen.baseline, seen.objective, suite)
    lego = figures(seen.lego, seen.objective, suite)
    one, other = sampled_pairs(seen)
    return {
        "suite": suite.name,
        "machine": context["machine"],
        "versions": context["versions"],
        "seed": seed,
        "rate_rps": round(median(seen.rates_rps), 4),
        "slo": f"{suite.slo_scale:g}x solo",
        "baseline": {"name": BASELINE, **baseline.medians},
        "lego": {"name": "lego_serve", **lego.medians},
        "ratio": summary.ratios(baseline, lego),
        "quality": {
            **summary.image_differences([[one.samples]], [[other.samples]]),
            **seen.inspected,
            **view.quality,
        },
        "details": {
            **{name: context[name] for name in ("command", "commit", "date", "quick")},
            "spread": {"baseline": baseline.extremes, "lego": lego.extremes},
            **details_of(suite, effort, seen),
            "suite": dict(view.about),
        },
    }
