"""Writes ``report.html`` of suite ``mixed``."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from loadgen.mixed.objective import Objective, latencies_s
from loadgen.mixed.plan import MixedSuite
from loadgen.mixed.rounds import Seen, SideRound
from loadgen.mixed.summarise import sampled_pairs
from loadgen.reports import parts as parts
from loadgen.reports.charts import Curve, plot


def write_report(
    path: Path, suite: MixedSuite, seen: Seen, found: Mapping[str, Any], grids: Sequence[Path] = ()
) -> None:
    """Write the page from the summary and the samples behind it, with grids of images where there are some."""
    one, other = sampled_pairs(seen)
    images = parts.images(one.requests, one.samples, other.samples)
    sections = [
        parts.section("Share of requests within the objective, by rate", _by_rate(suite, seen), _rate_note(suite)),
        parts.section(
            f"Latency at {found['rate_rps']:.2f} requests a second",
            _distribution(seen),
            "The share of requests answered within so many seconds of when they were due, all rounds together.",
        ),
        parts.section("Size classes at that rate", _classes(found)),
        parts.section("Images a second with 16 outstanding", parts.side_bars(found, "throughput_rps")),
        parts.section("All numbers", parts.numbers(found), "Medians over rounds, with the lowest and highest."),
        *_other_ways(found),
        parts.section("The objective", _objective(found), escape(found["details"]["solo"])),
        parts.section("The images themselves", f"<p>{parts.quality(found['quality'])}</p>{images}"),
        *(parts.section(grid.stem.replace("-", " "), parts.wide(grid)) for grid in grids),
        parts.section("Where and how", parts.context(found, _more(found))),
    ]
    ratio = found["ratio"]["max_rate_at_90pct"]
    title = f"{suite.title}: {_times(ratio)} the rate at the same objective"
    baseline = f"diffusers behind FastAPI on Ray Serve, {found['details']['baseline_layout']}"
    path.write_text(parts.page(suite.name, title, _lead(suite, seen, found), baseline, _tiles(suite, found), sections))


def _times(ratio: float | None) -> str:
    return "unknown times" if ratio is None else f"{ratio:.2f} times"


def _lead(suite: MixedSuite, seen: Seen, found: Mapping[str, Any]) -> str:
    every = suite.without_guidance_every
    guidance = f"one in {every} without guidance" if every else f"guidance {suite.guidance:g}"
    return (
        f"{_sizes(suite)}, {_steps_asked(suite)}, {guidance}, "
        f"model {escape(suite.model)}, {escape(seen.dtype)}. Both sides on the same "
        f"{len(found['machine']['pinned_to'])} cores, in turn, {len(seen.rates_rps)} round(s). "
        f"{escape(found['details']['date'])}."
    )


def _sizes(suite: MixedSuite) -> str:
    sizes = [size for kind in suite.classes for size in kind.sizes]
    if len(sizes) == 1:
        return "{} x {} pixels".format(*sizes[0])
    return f"<strong>{len(sizes)}</strong> sizes from {min(sizes)[0]} to {max(sizes)[0]} pixels a side"


def _steps_asked(suite: MixedSuite) -> str:
    few, many = suite.fewest_steps, suite.most_steps
    return f"{few} steps" if few == many else f"{few} to {many} steps"


def _tiles(suite: MixedSuite, found: Mapping[str, Any]) -> str:
    ratio, factor = found["ratio"], suite.rate_factor
    common = "the baseline's highest rate" if factor == 1 else f"{factor:g} of the baseline's highest rate"
    values = (
        ("max_rate_at_90pct", "highest rate with 90 % in time, lego over baseline"),
        ("throughput", "throughput"),
        ("mean", f"mean latency at {common}"),
        ("p95", "95th percentile of latency there"),
    )
    return parts.tiles([("-" if ratio[key] is None else f"{ratio[key]:.2f}x", text) for key, text in values])


WAYS = {
    "alone_s": "one image alone, s",
    "throughput_rps": "images a second, closed loop",
    "mean_s": "mean latency at the common rate, s",
    "p95_s": "95th percentile there, s",
    "attainment": "share within the objective there",
}


def _other_ways(found: Mapping[str, Any]) -> list[str]:
    """Both sides beside lego's other ways, where the suite has some."""
    ways, alone = found["details"]["lego_variants"], found["details"]["alone"] or {}
    if not ways:
        return []
    sides = [found[side] | {"alone_s": alone.get(f"{side}_s")} for side, _ in parts.SIDES]
    rows = [[escape(text), *(_plain(way[key]) for way in (*sides, *ways.values()))] for key, text in WAYS.items()]
    names = [f"lego_serve, {escape(name)}" for name in ways]
    note = "The other ways are asked for the same images after the usual one, so their prompts are encoded already."
    return [
        parts.section("lego_serve in its other ways", parts.table(("", "baseline", "lego_serve", *names), rows), note)
    ]


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _sides(seen: Seen) -> tuple[tuple[str, Sequence[SideRound]], ...]:
    return ("baseline", seen.baseline), ("lego", seen.lego)


def _by_rate(suite: MixedSuite, seen: Seen) -> str:
    curves = [
        Curve(side, [(p.rate_rps, p.attainment.ratio) for each in rounds for p in each.search.probes], dots=True)
        for side, rounds in _sides(seen)
    ]
    return plot(curves, "Share of requests within the objective, by rate", "requests a second", suite.attainment)


def _rate_note(suite: MixedSuite) -> str:
    return (
        f"Each dot is one rate tried in one round. A rate passes with {suite.attainment:.0%} within the objective "
        f"(dashed) and no size class under {suite.class_attainment:.0%}."
    )


def _distribution(seen: Seen) -> str:
    curves = [Curve(side, _steps(rounds, seen.objective)) for side, rounds in _sides(seen)]
    return plot(curves, "Share of requests answered within so many seconds", "seconds")


def _steps(rounds: Sequence[SideRound], objective: Objective) -> list[tuple[float, float]]:
    ordered = sorted(latency for each in rounds for latency in latencies_s(each.rated, objective.slo_s))
    return [(0.0, 0.0), *((latency, (index + 1) / len(ordered)) for index, latency in enumerate(ordered))]


def _classes(found: Mapping[str, Any]) -> str:
    classes = found["details"]["classes"]
    rows = [
        [escape(name), *(f"{classes[side][name]['attainment']:.1%} of {tally['asked']}" for side, _ in parts.SIDES)]
        for name, tally in classes["baseline"].items()
    ]
    return parts.table(("", "baseline, within the objective", "lego_serve, within the objective"), rows)


def _objective(found: Mapping[str, Any]) -> str:
    rows = [
        [
            _kind(row),
            f"{row['solo_constant_s']:.3f} + {row['solo_step_s']:.4f} a step",
            f"{row['slo_of_20_steps_s']:.2f}",
        ]
        for row in found["details"]["slo_table"]
    ]
    return parts.table(("", "baseline alone, s", f"objective at 20 steps ({found['slo']}), s"), rows)


def _kind(row: Mapping[str, Any]) -> str:
    """What one row of the table of objectives is about."""
    addons = f", {row['controlnets']} ControlNet(s), {row['adapters']} adapter(s)"
    has_any = row["controlnets"] or row["adapters"]
    return f"{row['size']}, {'with' if row['guidance'] else 'without'} guidance{addons if has_any else ''}"


def _more(found: Mapping[str, Any]) -> dict[str, str]:
    details = found["details"]
    compiled, backbones = details["baseline_compiled"], details["lego_backbones_trial_rps"]
    return {
        "layouts of the baseline": ", ".join(
            f"{k}: {v:.2f}/s" for k, v in details["baseline_layout_trial_rps"].items()
        ),
        "the baseline compiled": _compiled(compiled) if compiled else "not tried",
        "backbones of lego_serve": _rates(backbones) if backbones else "as the configuration says",
        "deadlines": f"told to lego_serve: {'yes' if details['deadline_ms_sent_to_lego'] else 'no'}",
        **{name: str(text) for name, text in details["suite"].items()},
        "latency": details["latency"],
        **_looked_at(found["quality"]),
        "requests without an image": str(details["failures"]),
        "ratios of each round": str(details["ratios_of_rounds"]),
        "rates of each round": ", ".join(f"{rate:.2f}/s" for rate in details["rates_rps"]),
    }


def _looked_at(quality: Mapping[str, Any]) -> dict[str, str]:
    """What was found of the images besides their differences."""
    found = {name.replace("_", " "): value for name, value in quality.items() if "difference" not in name}
    return {"of the images": ", ".join(f"{name}: {value}" for name, value in found.items())}


def _rates(trial: Mapping[str, float]) -> str:
    return ", ".join(f"{name}: {rate:.2f}/s" for name, rate in trial.items())


def _compiled(compiled: Mapping[str, Any]) -> str:
    if compiled["reason"]:
        return str(compiled["reason"])
    return (
        f"{compiled['solo_ratio']:.2f} times the eager time alone, {compiled['throughput_rps']:.2f}/s, "
        f"after {compiled['warm_up_s']:.0f} s of compiling"
    )
