"""Builds the pieces of ``report.html`` that every suite shows; each function returns HTML."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from loadgen.client import Sample
from loadgen.reports.charts import Bar, bar_chart
from loadgen.reports.page import PAGE, STYLE
from loadgen.traffic import ImageRequest

NUMBERS = {
    "throughput_rps": "images a second",
    "mean_s": "mean latency, s",
    "p50_s": "median latency, s",
    "p95_s": "95th percentile of latency, s",
    "attainment": "share within the objective",
    "max_rate_at_90pct": "highest rate with 90 % within the objective, 1/s",
}
SYSTEMS = (("baseline", "baseline"), ("lego", "lego_serve"))


def page(suite: str, title: str, lead: str, baseline: str, tiles: str, sections: Sequence[str]) -> str:
    """Return the whole page; ``lead``, ``tiles`` and ``sections`` are HTML, the rest is text."""
    return PAGE.substitute(
        suite=escape(suite),
        style=STYLE,
        title=escape(title),
        lead=lead,
        baseline=escape(baseline),
        tiles=tiles,
        sections="\n".join(sections),
    )


def section(title: str, body: str, note: str = "") -> str:
    """Return a card with a heading; ``body`` and ``note`` are HTML."""
    return f"<section><h2>{escape(title)}</h2>{body}{f'<p>{note}</p>' if note else ''}</section>"


def tiles(values: Sequence[tuple[str, str]]) -> str:
    """Return big numbers, each with its label; the first stands out."""
    return "".join(
        f'<div class="tile{"" if index else " main"}"><b>{escape(value)}</b><span>{escape(text)}</span></div>'
        for index, (value, text) in enumerate(values)
    )


def system_bars(summary: Mapping[str, Any], key: str) -> str:
    """Return one number of both systems as bars with whiskers over rounds."""
    bars = []
    for system, label in SYSTEMS:
        rate, (low, high) = summary[system][key], summary["details"]["spread"][system][key]
        bars.append(Bar(label, system, rate, f"{rate:.2f} /s", low=low, high=high))
    return bar_chart(bars, NUMBERS[key])


def numbers(summary: Mapping[str, Any]) -> str:
    """Return a table with all keys of both systems."""
    spread = summary["details"]["spread"]
    rows = [
        [escape(text), *(_number(summary[system][key], spread[system].get(key)) for system, _ in SYSTEMS)]
        for key, text in NUMBERS.items()
    ]
    return table(("", "baseline", "lego_serve"), rows)


def _number(value: float | None, extremes: Sequence[float] | None) -> str:
    if value is None or extremes is None:
        return "not measured in this suite"
    return f"{value:.3f} ({extremes[0]:.3f} to {extremes[1]:.3f})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table whose first column names the rows; cells are HTML."""
    lines = ["".join(f"<th>{cell}</th>" for cell in head)] if head else []
    lines += [f"<th>{row[0]}</th>" + "".join(f"<td>{cell}</td>" for cell in row[1:]) for row in rows]
    return f'<div class="scroll"><table>{"".join(f"<tr>{line}</tr>" for line in lines)}</table></div>'


def quality(figures: Mapping[str, Any]) -> str:
    """Return a sentence on how far the images of both systems lie apart."""
    if not figures["images_compared"]:
        return "No request was answered by both systems."
    return (
        f"Left the baseline, right lego_serve, same prompt and seed. Over {figures['images_compared']} pairs "
        f"the furthest pixel differs by {figures['max_difference_255']} of 255; the median pair's by "
        f"{figures['median_max_difference_255']:g}."
    )


def images(requests: Sequence[ImageRequest], baseline: Sequence[Sample], lego: Sequence[Sample]) -> str:
    """Return pairs of images of the same requests."""
    pairs = "".join(_figure(r, b, s) for r, b, s in zip(requests, baseline, lego, strict=True))
    return f'<div class="images">{pairs}</div>'


def _figure(request: ImageRequest, baseline: Sample, lego: Sample) -> str:
    pair = "".join(
        _img(sample.reply.image, f"{system}: {request.prompt}")
        for system, sample in (("baseline", baseline), ("lego", lego))
    )
    return f"<figure><div>{pair}</div><figcaption>{escape(request.prompt)}</figcaption></figure>"


def _img(image: bytes | None, text: str) -> str:
    if image is None:
        return f"<span>{escape(text)}: failed</span>"
    return f'<img alt="{escape(text)}" src="{_data_url(image)}">'


def wide(image: Path) -> str:
    """Return an image file as wide as the page."""
    return f'<img class="wide" alt="{escape(image.stem)}" src="{_data_url(image.read_bytes())}">'


def _data_url(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def context(summary: Mapping[str, Any], more: Mapping[str, str]) -> str:
    """Return a table of command, commit, machine, versions, and ``more`` rows of text."""
    rows = {
        "command": f"<code>{escape(summary['details']['command'])}</code>",
        "commit": escape(summary["details"]["commit"]),
        "machine": escape(", ".join(f"{name}: {value}" for name, value in summary["machine"].items())),
        "versions": escape(", ".join(f"{name} {value}" for name, value in summary["versions"].items())),
        **{name: escape(text) for name, text in more.items()},
    }
    return table((), list(rows.items()))
