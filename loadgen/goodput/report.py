"""Writes ``report.html`` of a suite of goodput from its summary."""

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from loadgen.goodput.plan import GoodputSuite
from loadgen.reports import parts
from loadgen.reports.charts import Bar, bar_chart

ROWS = {
    "attainment": "share in time",
    "goodput_rps": "in time a second",
    "refused": "refused (429)",
    "refused_p99_ms": "99th percentile of a refusal, ms",
    "failed": "failed",
    "mean_s": "mean latency of images, s",
    "p95_s": "95th percentile of it, s",
}


def write_report(path: Path, suite: GoodputSuite, summary: Mapping[str, Any]) -> None:
    """Write the page."""
    sections = [
        parts.section("In time a second", _bars(summary), "Bars are means over rounds, at each rate that was offered."),
        parts.section("All numbers", _numbers(summary)),
        parts.section("Where and how", parts.context(_with_details(summary), _context_rows(summary))),
    ]
    ratio = summary["ratio"]["goodput"][-1]["ratio"]
    title = f"{suite.title}: {'no image in time on the baseline' if ratio is None else f'{ratio:.2f} times in time'}"
    lead = (
        f"{suite.width} x {suite.height} pixels, {suite.steps} steps, gaps with a coefficient of variation of "
        f"{suite.cv:g}; in time is within {summary['slo_s']:.2f} s, {summary['slo']}. {summary['date']}."
    )
    path.write_text(parts.page(suite.name, title, lead, summary["baseline"]["name"], _tiles(summary), sections))


def _tiles(summary: Mapping[str, Any]) -> str:
    ratio = summary["ratio"]
    values = [(f"{each['ratio']}x", "in time, lego over baseline") for each in ratio["goodput"][-1:]]
    if ratio["rate_at_90pct"] is not None:
        values.append((f"{ratio['rate_at_90pct']:.2f}x", "rate with 90 % in time"))
    if ratio["memory"] is not None:
        values.append((f"{ratio['memory']:.2f}x", "memory"))
    return parts.tiles(values)


def _bars(summary: Mapping[str, Any]) -> str:
    bars = [
        Bar(f"{label}, {each['rate_rps']:.2f} offered", system, each["goodput_rps"], f"{each['goodput_rps']:.2f} /s")
        for system, label in parts.SYSTEMS
        for each in summary[system]["loads"]
    ]
    return bar_chart(bars, "images in time a second")


def _numbers(summary: Mapping[str, Any]) -> str:
    rates = [each["rate_rps"] for each in summary["baseline"]["loads"]]
    head = ["", *(f"{label}, {rate:.2f}/s" for rate in rates for _, label in parts.SYSTEMS)]
    rows = [
        [
            escape(text),
            *(f"{summary[system]['loads'][at][key]:g}" for at in range(len(rates)) for system, _ in parts.SYSTEMS),
        ]
        for key, text in ROWS.items()
    ]
    return parts.table(head, rows)


def _with_details(summary: Mapping[str, Any]) -> dict[str, Any]:
    return {**summary, "details": {name: summary[name] for name in ("command", "commit")}}


def _context_rows(summary: Mapping[str, Any]) -> dict[str, str]:
    intervals = [f"{each['ratio']} ({each['low']} to {each['high']})" for each in summary["ratio"]["goodput"]]
    megabytes = [f"{summary[system]['memory_bytes'] / 1e6:.0f}" for system, _ in parts.SYSTEMS]
    return {
        "busy before the run": f"{summary['busy_before']:.0%} of this machine's cores",
        "in time, lego over baseline, with 95 % intervals": ", ".join(intervals),
        "memory of all processes, MB": f"{megabytes[0]} and {megabytes[1]}",
        "images": parts.quality(summary["quality"]),
    }
