"""Writes ``report.html`` of suite ``mixed`` and its like."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from loadgen.mixed.objective import Objective, latencies_s
from loadgen.mixed.plan import MONOLITH, MixedSuite
from loadgen.mixed.rounds import Measurements, SystemRound
from loadgen.mixed.summarise import sampled_pairs
from loadgen.reports import parts
from loadgen.reports.charts import Curve, plot


def write_report(
    path: Path, suite: MixedSuite, measured: Measurements, summary: Mapping[str, Any], grids: Sequence[Path] = ()
) -> None:
    """Write the page from the summary and the samples behind it, with the grids of images."""
    baseline_images, lego_images = sampled_pairs(measured)
    images = parts.images(baseline_images.requests, baseline_images.samples, lego_images.samples)
    sections = [
        parts.section("Share of requests within the objective, by rate", _by_rate(suite, measured), _rate_note(suite)),
        parts.section(
            f"Latency at {summary['rate_rps']:.2f} requests a second",
            _distribution(measured),
            "The share of requests answered within so many seconds of when they were due, all rounds together.",
        ),
        parts.section("Size classes at that rate", _classes(summary)),
        parts.section("Images a second with 16 outstanding", parts.system_bars(summary, "throughput_rps")),
        parts.section("All numbers", parts.numbers(summary), "Medians over rounds, with the lowest and highest."),
        *_variants(summary),
        parts.section("The objective", _objective(summary), escape(summary["details"]["solo"])),
        parts.section("The images themselves", f"<p>{parts.quality(summary['quality'])}</p>{images}"),
        *(parts.section(grid.stem.replace("-", " "), parts.wide(grid)) for grid in grids),
        parts.section("Where and how", parts.context(summary, _context_rows(summary))),
    ]
    ratio = summary["ratio"]["max_rate_at_90pct"]
    title = f"{suite.title}: {_times(ratio)} the rate at the same objective"
    layout = summary["details"]["baseline_layout"]
    baseline = f"diffusers behind FastAPI on Ray Serve, {layout}" if suite.baseline == MONOLITH else suite.baseline
    path.write_text(
        parts.page(suite.name, title, _lead(suite, measured, summary), baseline, _tiles(suite, summary), sections)
    )


def _times(ratio: float | None) -> str:
    return "unknown times" if ratio is None else f"{ratio:.2f} times"


def _lead(suite: MixedSuite, measured: Measurements, summary: Mapping[str, Any]) -> str:
    every = suite.without_guidance_every
    guidance = f"one in {every} without guidance" if every else f"guidance {suite.guidance:g}"
    return (
        f"{_sizes(suite)}, {_steps_range(suite)}, {guidance}, "
        f"model {escape(suite.model)}, {escape(measured.dtype)}. Both systems on the same "
        f"{len(summary['machine']['pinned_to'])} cores, in turn, {len(measured.rates_rps)} round(s). "
        f"{escape(summary['details']['date'])}."
    )


def _sizes(suite: MixedSuite) -> str:
    sizes = [size for kind in suite.classes for size in kind.sizes]
    if len(sizes) == 1:
        return "{} x {} pixels".format(*sizes[0])
    return f"<strong>{len(sizes)}</strong> sizes from {min(sizes)[0]} to {max(sizes)[0]} pixels a side"


def _steps_range(suite: MixedSuite) -> str:
    few, many = suite.fewest_steps, suite.most_steps
    return f"{few} steps" if few == many else f"{few} to {many} steps"


def _tiles(suite: MixedSuite, summary: Mapping[str, Any]) -> str:
    ratio, factor = summary["ratio"], suite.rate_factor
    common = "the baseline's highest rate" if factor == 1 else f"{factor:g} of the baseline's highest rate"
    values = (
        ("max_rate_at_90pct", "highest rate with 90 % in time, lego over baseline"),
        ("throughput", "throughput"),
        ("mean", f"mean latency at {common}"),
        ("p95", "95th percentile of latency there"),
    )
    return parts.tiles([("-" if ratio[key] is None else f"{ratio[key]:.2f}x", text) for key, text in values])


VARIANT_ROWS = {
    "alone_s": "one image alone, s",
    "throughput_rps": "images a second, closed loop",
    "mean_s": "mean latency at the common rate, s",
    "p95_s": "95th percentile there, s",
    "attainment": "share within the objective there",
}


def _variants(summary: Mapping[str, Any]) -> list[str]:
    """Return both systems beside lego's variants, where the suite has some."""
    variants, alone = summary["details"]["lego_variants"], summary["details"]["alone"] or {}
    if not variants:
        return []
    columns = [summary[name] | {"alone_s": alone.get(f"{name}_s")} for name, _ in parts.SYSTEMS] + [*variants.values()]
    rows = [[escape(text), *(_plain(column[key]) for column in columns)] for key, text in VARIANT_ROWS.items()]
    names = [f"lego_serve, {escape(name)}" for name in variants]
    note = "The variants get the same requests after the usual way, so their prompts are encoded already."
    return [parts.section("lego_serve's variants", parts.table(("", "baseline", "lego_serve", *names), rows), note)]


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _systems(measured: Measurements) -> tuple[tuple[str, Sequence[SystemRound]], ...]:
    return ("baseline", measured.baseline), ("lego", measured.lego)


def _by_rate(suite: MixedSuite, measured: Measurements) -> str:
    curves = [
        Curve(name, [(p.rate_rps, p.attainment.ratio) for each in rounds for p in each.search.probes], dots=True)
        for name, rounds in _systems(measured)
    ]
    return plot(curves, "Share of requests within the objective, by rate", "requests a second", suite.attainment)


def _rate_note(suite: MixedSuite) -> str:
    return (
        f"Each dot is one rate tried in one round. A rate passes with {suite.attainment:.0%} within the objective "
        f"(dashed) and no size class under {suite.class_attainment:.0%}."
    )


def _distribution(measured: Measurements) -> str:
    curves = [Curve(name, _latency_curve(rounds, measured.objective)) for name, rounds in _systems(measured)]
    return plot(curves, "Share of requests answered within so many seconds", "seconds")


def _latency_curve(rounds: Sequence[SystemRound], objective: Objective) -> list[tuple[float, float]]:
    ordered = sorted(latency for each in rounds for latency in latencies_s(each.rated, objective.slo_s))
    return [(0.0, 0.0), *((latency, (index + 1) / len(ordered)) for index, latency in enumerate(ordered))]


def _classes(summary: Mapping[str, Any]) -> str:
    classes = summary["details"]["classes"]
    rows = [
        [
            escape(name),
            *(f"{classes[system][name]['attainment']:.1%} of {tally['asked']}" for system, _ in parts.SYSTEMS),
        ]
        for name, tally in classes["baseline"].items()
    ]
    return parts.table(("", "baseline, within the objective", "lego_serve, within the objective"), rows)


def _objective(summary: Mapping[str, Any]) -> str:
    rows = [
        [
            _row_label(row),
            f"{row['solo_constant_s']:.3f} + {row['solo_step_s']:.4f} a step",
            f"{row['slo_of_20_steps_s']:.2f}",
        ]
        for row in summary["details"]["slo_table"]
    ]
    return parts.table(("", "baseline alone, s", f"objective at 20 steps ({summary['slo']}), s"), rows)


def _row_label(row: Mapping[str, Any]) -> str:
    """Return the size, guidance and add-ons of one row of the table of objectives."""
    addons = f", {row['controlnets']} ControlNet(s), {row['adapters']} adapter(s)"
    has_any = row["controlnets"] or row["adapters"]
    return f"{row['size']}, {'with' if row['guidance'] else 'without'} guidance{addons if has_any else ''}"


def _context_rows(summary: Mapping[str, Any]) -> dict[str, str]:
    details = summary["details"]
    compiled, backbones = details["baseline_compiled"], details["lego_backbones_trial_rps"]
    return {
        "layouts of the baseline": ", ".join(
            f"{k}: {v:.2f}/s" for k, v in details["baseline_layout_trial_rps"].items()
        ),
        "the baseline compiled": _compiled(compiled) if compiled else "not tried",
        "backbones of lego_serve": _rates(backbones) if backbones else "as the configuration says",
        "deadlines": f"sent to lego_serve: {'yes' if details['deadline_ms_sent_to_lego'] else 'no'}",
        **{name: str(text) for name, text in details["suite"].items()},
        "latency": details["latency"],
        **_quality_row(summary["quality"]),
        "requests without an image": str(details["failures"]),
        "ratios of each round": str(details["ratios_of_rounds"]),
        "rates of each round": ", ".join(f"{rate:.2f}/s" for rate in details["rates_rps"]),
    }


def _quality_row(quality: Mapping[str, Any]) -> dict[str, str]:
    """Return the figures on the images besides their differences."""
    figures = {name.replace("_", " "): value for name, value in quality.items() if "difference" not in name}
    return {"of the images": ", ".join(f"{name}: {value}" for name, value in figures.items())}


def _rates(trial: Mapping[str, float]) -> str:
    return ", ".join(f"{name}: {rate:.2f}/s" for name, rate in trial.items())


def _compiled(compiled: Mapping[str, Any]) -> str:
    if compiled["reason"]:
        return str(compiled["reason"])
    return (
        f"{compiled['solo_ratio']:.2f} times the eager time alone, {compiled['throughput_rps']:.2f}/s, "
        f"after {compiled['warm_up_s']:.0f} s of compiling"
    )
