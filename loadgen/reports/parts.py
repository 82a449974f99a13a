"""Pieces of ``report.html`` that every suite shows."""

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
SIDES = (("baseline", "diffusers"), ("lego", "lego_serve"))


def page(suite: str, title: str, lead: str, baseline: str, tiles: str, sections: Sequence[str]) -> str:
    """The whole page; ``lead``, ``tiles`` and ``sections`` are HTML, the rest is text."""
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
    """A card with a heading; ``body`` and ``note`` are HTML."""
    return f"<section><h2>{escape(title)}</h2>{body}{f'<p>{note}</p>' if note else ''}</section>"


def tiles(values: Sequence[tuple[str, str]]) -> str:
    """Big numbers with what they are; the first stands out."""
    return "".join(
        f'<div class="tile{"" if index else " main"}"><b>{escape(value)}</b><span>{escape(text)}</span></div>'
        for index, (value, text) in enumerate(values)
    )


def side_bars(found: Mapping[str, Any], key: str) -> str:
    """One number of both sides as bars with whiskers over rounds."""
    bars = []
    for side, label in SIDES:
        rate, (low, high) = found[side][key], found["details"]["spread"][side][key]
        bars.append(Bar(label, side, rate, f"{rate:.2f} /s", low=low, high=high))
    return bar_chart(bars, NUMBERS[key])


def numbers(found: Mapping[str, Any]) -> str:
    """All keys of both sides."""
    spread = found["details"]["spread"]
    rows = [
        [escape(text), *(_number(found[side][key], spread[side].get(key)) for side, _ in SIDES)]
        for key, text in NUMBERS.items()
    ]
    return table(("", "baseline", "lego_serve"), rows)


def _number(value: float | None, extremes: Sequence[float] | None) -> str:
    if value is None or extremes is None:
        return "not measured in this suite"
    return f"{value:.3f} ({extremes[0]:.3f} to {extremes[1]:.3f})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column names the rows; cells are HTML."""
    lines = ["".join(f"<th>{cell}</th>" for cell in head)] if head else []
    lines += [f"<th>{row[0]}</th>" + "".join(f"<td>{cell}</td>" for cell in row[1:]) for row in rows]
    return f'<div class="scroll"><table>{"".join(f"<tr>{line}</tr>" for line in lines)}</table></div>'


def quality(found: Mapping[str, Any]) -> str:
    """How far the images of both sides lie apart, in a sentence."""
    if not found["images_compared"]:
        return "No request was answered by both sides."
    return (
        f"Left diffusers, right lego_serve, same prompt and seed. Over {found['images_compared']} pairs "
        f"the furthest pixel differs by {found['max_difference_255']} of 255; the median pair's by "
        f"{found['median_max_difference_255']:g}."
    )


def images(requests: Sequence[ImageRequest], baseline: Sequence[Sample], lego: Sequence[Sample]) -> str:
    """Pairs of images of the same requests."""
    pairs = "".join(_figure(r, b, s) for r, b, s in zip(requests, baseline, lego, strict=True))
    return f'<div class="images">{pairs}</div>'


def _figure(request: ImageRequest, baseline: Sample, lego: Sample) -> str:
    pair = "".join(
        _img(sample.reply.image, f"{side}: {request.prompt}")
        for side, sample in (("diffusers", baseline), ("lego", lego))
    )
    return f"<figure><div>{pair}</div><figcaption>{escape(request.prompt)}</figcaption></figure>"


def _img(image: bytes | None, text: str) -> str:
    if image is None:
        return f"<span>{escape(text)}: failed</span>"
    return f'<img alt="{escape(text)}" src="{_data(image)}">'


def wide(image: Path) -> str:
    """A file of an image, as wide as the page."""
    return f'<img class="wide" alt="{escape(image.stem)}" src="{_data(image.read_bytes())}">'


def _data(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def context(found: Mapping[str, Any], more: Mapping[str, str]) -> str:
    """Command, commit, machine, versions, and ``more`` rows of text."""
    rows = {
        "command": f"<code>{escape(found['details']['command'])}</code>",
        "commit": escape(found["details"]["commit"]),
        "machine": escape(", ".join(f"{name}: {value}" for name, value in found["machine"].items())),
        "versions": escape(", ".join(f"{name} {value}" for name, value in found["versions"].items())),
        **{name: escape(text) for name, text in more.items()},
    }
    return table((), list(rows.items()))
