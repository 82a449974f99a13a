"""Writes ``report.html``: one file to look at, made from a summary and one burst of each side."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from loadgen.charts import Bar, bar_chart
from loadgen.client import Sample
from loadgen.report_page import PAGE, STYLE
from loadgen.suites import Suite
from loadgen.traffic import ImageRequest

NUMBERS = {
    "throughput_rps": "pictures a second",
    "mean_s": "mean latency, s",
    "p50_s": "median latency, s",
    "p95_s": "95th percentile of latency, s",
    "attainment": "share within the objective",
    "max_rate_at_90pct": "highest rate with 90 % within the objective, 1/s",
}


def write_report(
    path: Path,
    suite: Suite,
    requests: Sequence[ImageRequest],
    bursts: tuple[Sequence[Sample], Sequence[Sample]],
    found: Mapping[str, Any],
) -> None:
    """Write the page; ``bursts`` are the baseline's and the server's samples of ``requests``."""
    details, ratio = found["details"], found["ratio"]
    page = PAGE.substitute(
        suite=escape(suite.name),
        style=STYLE,
        title=escape(f"{suite.title}: {ratio['throughput']:.2f} times the throughput"),
        lead=_lead(suite, found),
        baseline=escape(_baseline(details)),
        tiles=_tiles(found),
        throughput=_throughput(found),
        throughput_note="Bars are medians over rounds, whiskers the lowest and highest round.",
        timeline=_timeline(*bursts),
        timeline_note="One burst of the last round, all requests due at zero; shorter is sooner.",
        numbers=_numbers(found),
        quality=_quality(found["quality"]),
        pictures="".join(_figure(r, b, s) for r, b, s in zip(requests, *bursts, strict=True)),
        context=_context(found),
    )
    path.write_text(page)


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
    ratio, details = found["ratio"], found["details"]
    tiles = [
        ("main", f"{ratio['throughput']:.2f}x", "throughput, lego over baseline"),
        ("", f"{ratio['mean']:.2f}x", "mean latency in the burst"),
        ("", f"{ratio['p95']:.2f}x", "95th percentile of latency"),
        ("", f"{details['failures']['lego']}", "failed requests of lego_serve"),
    ]
    return "".join(f'<div class="tile {kind}"><b>{value}</b><span>{text}</span></div>' for kind, value, text in tiles)


def _throughput(found: Mapping[str, Any]) -> str:
    rows = (("baseline", "baseline", "diffusers"), ("lego", "lego", "lego_serve"))
    bars = []
    for side, kind, label in rows:
        rate, (low, high) = found[side]["throughput_rps"], found["details"]["spread"][side]["throughput_rps"]
        bars.append(Bar(label, kind, rate, f"{rate:.2f} /s", low=low, high=high))
    return bar_chart(bars, "Pictures a second")


def _timeline(baseline: Sequence[Sample], lego: Sequence[Sample]) -> str:
    bars = [
        Bar(f"{name} {index}", kind, sample.latency_s, f"{sample.latency_s:.2f} s" if sample.is_ok else "failed")
        for name, kind, samples in (("diffusers", "baseline", baseline), ("lego_serve", "lego", lego))
        for index, sample in enumerate(samples, start=1)
    ]
    return bar_chart(bars, "Seconds until each picture was ready")


def _numbers(found: Mapping[str, Any]) -> str:
    spread = found["details"]["spread"]
    rows = ["<tr><th></th><th>baseline</th><th>lego_serve</th></tr>"]
    for key, text in NUMBERS.items():
        cells = "".join(f"<td>{_number(found[side][key], spread[side].get(key))}</td>" for side in ("baseline", "lego"))
        rows.append(f"<tr><th>{text}</th>{cells}</tr>")
    return f"<table>{''.join(rows)}</table>"


def _number(value: float | None, extremes: Sequence[float] | None) -> str:
    if value is None or extremes is None:
        return "not measured in this suite"
    return f"{value:.3f} ({extremes[0]:.3f} to {extremes[1]:.3f})"


def _quality(quality: Mapping[str, Any]) -> str:
    return (
        f"Left diffusers, right lego_serve, same prompt and seed. Over {quality['pictures_compared']} pairs "
        f"the furthest pixel differs by {quality['max_difference_255']} of 255; the median pair's by "
        f"{quality['median_max_difference_255']:g}."
    )


def _figure(request: ImageRequest, baseline: Sample, lego: Sample) -> str:
    pair = "".join(
        _img(sample.reply.picture, f"{side}: {request.prompt}")
        for side, sample in (("diffusers", baseline), ("lego", lego))
    )
    return f"<figure><div>{pair}</div><figcaption>{escape(request.prompt)}</figcaption></figure>"


def _img(picture: bytes | None, text: str) -> str:
    if picture is None:
        return f"<span>{escape(text)}: failed</span>"
    return f'<img alt="{escape(text)}" src="data:image/png;base64,{base64.b64encode(picture).decode()}">'


def _context(found: Mapping[str, Any]) -> str:
    details, machine = found["details"], found["machine"]
    rows = {
        "command": f"<code>{escape(details['command'])}</code>",
        "commit": escape(details["commit"]),
        "machine": escape(", ".join(f"{name}: {value}" for name, value in machine.items())),
        "versions": escape(", ".join(f"{name} {value}" for name, value in found["versions"].items())),
        "objective": escape(
            f"{found['slo']}: {details['slo_s']:.2f} s; one picture alone takes {details['solo_s']:.2f} s"
        ),
        "baseline alone": escape(
            ", ".join(f"{t} thread(s): {s:.2f} s" for t, s in details["baseline_trial_s"].items())
        ),
        "server ready in": escape(", ".join(f"{each:.1f} s" for each in details["server_ready_s"])),
        "ratio of each round": escape(", ".join(f"{each:.2f}" for each in details["throughput_ratio_of_rounds"])),
    }
    return f"<table>{''.join(f'<tr><th>{name}</th><td>{value}</td></tr>' for name, value in rows.items())}</table>"
