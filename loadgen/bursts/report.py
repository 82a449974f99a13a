"""Writes ``report.html`` of a suite of bursts from its summary and one burst of each system."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from loadgen.bursts.plan import Suite
from loadgen.client import Sample
from loadgen.reports import parts
from loadgen.reports.charts import Bar, bar_chart
from loadgen.traffic import ImageRequest


def write_report(
    path: Path,
    suite: Suite,
    requests: Sequence[ImageRequest],
    bursts: tuple[Sequence[Sample], Sequence[Sample]],
    summary: Mapping[str, Any],
) -> None:
    """Write the page; ``bursts`` are the baseline's and the server's samples of ``requests``."""
    sections = [
        parts.section(
            "Images a second",
            parts.system_bars(summary, "throughput_rps"),
            "Bars are medians over rounds, whiskers the lowest and highest round.",
        ),
        parts.section(
            "When each image of a burst was ready",
            _timeline(*bursts),
            "One burst of the last round, all requests due at zero; shorter is sooner.",
        ),
        parts.section("All numbers", parts.numbers(summary)),
        parts.section(
            "The images themselves",
            f"<p>{parts.quality(summary['quality'])}</p>{parts.images(requests, *bursts)}",
        ),
        parts.section("Where and how", parts.context(summary, _context_rows(summary))),
    ]
    title = f"{suite.title}: {summary['ratio']['throughput']:.2f} times the throughput"
    baseline = _baseline_name(summary["details"])
    path.write_text(parts.page(suite.name, title, _lead(suite, summary), baseline, _tiles(summary), sections))


def _baseline_name(details: Mapping[str, Any]) -> str:
    threads = details["baseline_threads"]
    return f"diffusers in-process, {threads} thread{'s' if threads > 1 else ''}"


def _lead(suite: Suite, summary: Mapping[str, Any]) -> str:
    details = summary["details"]
    return (
        f"A closed burst of <strong>{suite.arrivals.requests}</strong> requests, "
        f"{suite.width} x {suite.height} pixels, {suite.steps} steps, guidance {suite.guidance:g}, "
        f"model {escape(suite.model)}, {escape(details['dtype'])}. "
        f"Both systems on the same {len(summary['machine']['pinned_to'])} cores, in turn, "
        f"{details['rounds']} rounds of {details['bursts_per_round']} bursts. {escape(details['date'])}."
    )


def _tiles(summary: Mapping[str, Any]) -> str:
    ratio = summary["ratio"]
    return parts.tiles(
        (
            (f"{ratio['throughput']:.2f}x", "throughput, lego over baseline"),
            (f"{ratio['mean']:.2f}x", "mean latency in the burst"),
            (f"{ratio['p95']:.2f}x", "95th percentile of latency"),
            (f"{summary['details']['failures']['lego']}", "failed requests of lego_serve"),
        )
    )


def _timeline(baseline: Sequence[Sample], lego: Sequence[Sample]) -> str:
    bars = [
        Bar(f"{name} {index}", kind, sample.latency_s, f"{sample.latency_s:.2f} s" if sample.is_ok else "failed")
        for name, kind, samples in (("diffusers", "baseline", baseline), ("lego_serve", "lego", lego))
        for index, sample in enumerate(samples, start=1)
    ]
    return bar_chart(bars, "Seconds until each image was ready")


def _context_rows(summary: Mapping[str, Any]) -> dict[str, str]:
    details = summary["details"]
    return {
        "objective": f"{summary['slo']}: {details['slo_s']:.2f} s; one image alone takes {details['solo_s']:.2f} s",
        "baseline alone": ", ".join(f"{t} thread(s): {s:.2f} s" for t, s in details["baseline_trial_s"].items()),
        "server ready in": ", ".join(f"{seconds:.1f} s" for seconds in details["server_ready_s"]),
        "ratio of each round": ", ".join(f"{ratio:.2f}" for ratio in details["throughput_ratio_of_rounds"]),
    }
