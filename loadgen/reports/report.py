"""Writes ``report.html`` of a suite of bursts: one file to look at, from a summary and one burst of each side."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from loadgen.client import Sample
from loadgen.reports import parts as parts
from loadgen.reports.charts import Bar, bar_chart
from loadgen.suites import Suite
from loadgen.traffic import ImageRequest


def write_report(
    path: Path,
    suite: Suite,
    requests: Sequence[ImageRequest],
    bursts: tuple[Sequence[Sample], Sequence[Sample]],
    found: Mapping[str, Any],
) -> None:
    """Write the page; ``bursts`` are the baseline's and the server's samples of ``requests``."""
    sections = [
        parts.section(
            "Images a second",
            parts.side_bars(found, "throughput_rps"),
            "Bars are medians over rounds, whiskers the lowest and highest round.",
        ),
        parts.section(
            "When each image of a burst was ready",
            _timeline(*bursts),
            "One burst of the last round, all requests due at zero; shorter is sooner.",
        ),
        parts.section("All numbers", parts.numbers(found)),
        parts.section(
            "The images themselves",
            f"<p>{parts.quality(found['quality'])}</p>{parts.images(requests, *bursts)}",
        ),
        parts.section("Where and how", parts.context(found, _more(found))),
    ]
    title = f"{suite.title}: {found['ratio']['throughput']:.2f} times the throughput"
    baseline = _baseline(found["details"])
    path.write_text(parts.page(suite.name, title, _lead(suite, found), baseline, _tiles(found), sections))


def _baseline(details: Mapping[str, Any]) -> str:
    threads = details["baseline_threads"]
    return f"diffusers in-process, {threads} thread{'s' if threads > 1 else ''}"


def _lead(suite: Suite, found: Mapping[str, Any]) -> str:
    details = found["details"]
    return (
        f"A closed burst of <strong>{suite.arrivals.requests}</strong> requests, "
        f"{suite.width} x {suite.height} pixels, {suite.steps} steps, guidance {suite.guidance:g}, "
        f"model {escape(suite.model)}, {escape(details['dtype'])}. "
        f"Both sides on the same {len(found['machine']['pinned_to'])} cores, in turn, {details['rounds']} rounds of "
        f"{details['bursts_per_round']} bursts. {escape(details['date'])}."
    )


def _tiles(found: Mapping[str, Any]) -> str:
    ratio = found["ratio"]
    return parts.tiles(
        (
            (f"{ratio['throughput']:.2f}x", "throughput, lego over baseline"),
            (f"{ratio['mean']:.2f}x", "mean latency in the burst"),
            (f"{ratio['p95']:.2f}x", "95th percentile of latency"),
            (f"{found['details']['failures']['lego']}", "failed requests of lego_serve"),
        )
    )


def _timeline(baseline: Sequence[Sample], lego: Sequence[Sample]) -> str:
    bars = [
        Bar(f"{name} {index}", kind, sample.latency_s, f"{sample.latency_s:.2f} s" if sample.is_ok else "failed")
        for name, kind, samples in (("diffusers", "baseline", baseline), ("lego_serve", "lego", lego))
        for index, sample in enumerate(samples, start=1)
    ]
    return bar_chart(bars, "Seconds until each image was ready")


def _more(found: Mapping[str, Any]) -> dict[str, str]:
    details = found["details"]
    return {
        "objective": f"{found['slo']}: {details['slo_s']:.2f} s; one image alone takes {details['solo_s']:.2f} s",
        "baseline alone": ", ".join(f"{t} thread(s): {s:.2f} s" for t, s in details["baseline_trial_s"].items()),
        "server ready in": ", ".join(f"{each:.1f} s" for each in details["server_ready_s"]),
        "ratio of each round": ", ".join(f"{each:.2f}" for each in details["throughput_ratio_of_rounds"]),
    }
