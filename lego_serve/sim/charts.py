"""Charts as SVG text: lines with bands, bars and a Gantt chart; no script, no font and no file besides."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

from lego_serve.sim.cluster import Span

WIDTH, HEIGHT = 640, 320
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 26, 40
COLOURS = ("#3b6fd4", "#d4603b", "#2f9e6e", "#8c5bc9", "#b58a16", "#c2458b", "#4a9bb0", "#7d7d7d")


class Point(NamedTuple):
    """A point of a line, and the interval it may lie in."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


class _Frame:
    """The place of values in a chart."""

    def __init__(self, xs: Sequence[float], ys: Sequence[float]) -> None:
        self.x0, self.x1 = min(xs), max(max(xs), min(xs) + 1e-9)
        self.y0, self.y1 = min(0.0, *ys), max(max(ys), 1e-9)

    def x(self, value: float) -> float:
        return round(LEFT + (value - self.x0) / (self.x1 - self.x0) * (WIDTH - LEFT - RIGHT), 1)

    def y(self, value: float) -> float:
        return round(HEIGHT - BOTTOM - (value - self.y0) / (self.y1 - self.y0) * (HEIGHT - TOP - BOTTOM), 1)


def lines(
    series: Mapping[str, Sequence[Point]],
    x_label: str,
    y_label: str,
    *,
    mark_y: float | None = None,
    steps: bool = False,
) -> str:
    """Lines over x, each with its band where points have one; ``mark_y`` is a line across."""
    points = [point for each in series.values() for point in each]
    if not points:
        return ""
    tops = [point.y if point.high is None else point.high for point in points]
    frame = _Frame([point.x for point in points], [*tops, *([] if mark_y is None else [mark_y])])
    parts = [_axes(frame, x_label, y_label)]
    if mark_y is not None:
        y = frame.y(mark_y)
        parts.append(f'<line class="mark" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
    for index, (name, each) in enumerate(series.items()):
        colour = COLOURS[index % len(COLOURS)]
        parts.extend(_line(frame, name, each, colour, steps=steps))
    return _svg("".join(parts), HEIGHT) + _legend(list(series))


def _line(frame: _Frame, name: str, points: Sequence[Point], colour: str, *, steps: bool) -> list[str]:
    banded = [point for point in points if point.low is not None and point.high is not None]
    parts = []
    if banded:
        upper = " ".join(f"{frame.x(p.x)},{frame.y(p.high or 0.0)}" for p in banded)
        lower = " ".join(f"{frame.x(p.x)},{frame.y(p.low or 0.0)}" for p in reversed(banded))
        parts.append(f'<polygon points="{upper} {lower}" fill="{colour}" opacity="0.18"/>')
    places: list[str] = []
    for point in points:
        if steps and places:
            places.append(f"{frame.x(point.x)},{places[-1].split(',')[1]}")
        places.append(f"{frame.x(point.x)},{frame.y(point.y)}")
    parts.append(f'<polyline points="{" ".join(places)}" fill="none" stroke="{colour}" stroke-width="2"/>')
    if not steps:
        parts.extend(
            f'<circle cx="{frame.x(p.x)}" cy="{frame.y(p.y)}" r="3" fill="{colour}"><title>{escape(name)}: '
            f"{p.x:.3g}, {p.y:.3g}</title></circle>"
            for p in points
        )
    return parts


def bars(values: Mapping[str, Point | float], y_label: str, *, mark_y: float | None = None) -> str:
    """A bar for each name, with a whisker where a value has an interval (``x`` of such a point says nothing)."""
    if not values:
        return ""
    points = {name: each if isinstance(each, Point) else Point(0.0, each) for name, each in values.items()}
    tops = [point.y if point.high is None else point.high for point in points.values()]
    frame = _Frame([0.0, float(len(points))], [*tops, *([] if mark_y is None else [mark_y])])
    parts = [_grid(frame, y_label)]
    width = (WIDTH - LEFT - RIGHT) / len(points)
    for index, (name, point) in enumerate(points.items()):
        x, y = LEFT + index * width, frame.y(point.y)
        colour = COLOURS[index % len(COLOURS)]
        height = round(frame.y(0.0) - y, 1)
        middle = round(x + width / 2, 1)
        parts.append(
            f'<rect x="{x + width * 0.15:.1f}" y="{y}" width="{width * 0.7:.1f}" height="{height}" fill="{colour}">'
            f"<title>{escape(name)}: {point.y:.3g}</title></rect>"
            f'<text x="{middle}" y="{y - 4}" text-anchor="middle">{point.y:.3g}</text>'
        )
        parts.append(
            f'<text x="{middle}" y="{HEIGHT - BOTTOM + 12}" text-anchor="end" '
            f'transform="rotate(-25 {middle} {HEIGHT - BOTTOM + 12})">{escape(name)}</text>'
        )
        if point.low is not None and point.high is not None:
            low, high = frame.y(point.low), frame.y(point.high)
            parts.append(f'<line class="whisker" x1="{middle}" x2="{middle}" y1="{low}" y2="{high}"/>')
    if mark_y is not None:
        parts.append(
            f'<line class="mark" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{frame.y(mark_y)}" y2="{frame.y(mark_y)}"/>'
        )
    return _svg("".join(parts), HEIGHT + BOTTOM)


def gantt(spans: Sequence[Span], gpus: int, start_s: float, end_s: float) -> str:
    """What each GPU did in a window: calls by workflow, a stripe for split ones, and loads below the calls."""
    row = 18 if gpus <= 24 else 8
    height = TOP + gpus * row + BOTTOM
    shown = [span for span in spans if span.end_s > start_s and span.start_s < end_s]
    labels = sorted({span.label.split("+")[0] for span in shown if span.kind != "load"})
    colour = {label: COLOURS[index % (len(COLOURS) - 1)] for index, label in enumerate(labels)}

    def x(at_s: float) -> float:
        at_s = min(max(at_s, start_s), end_s)
        return round(LEFT + (at_s - start_s) / (end_s - start_s) * (WIDTH - LEFT - RIGHT), 1)

    parts = [
        f'<text x="{LEFT - 6}" y="{TOP + gpu * row + row * 0.7:.0f}" text-anchor="end">{gpu}</text>'
        for gpu in range(0, gpus, 1 if gpus <= 24 else 8)
    ]
    for span in shown:
        is_load = span.kind == "load"
        y = TOP + span.gpu * row + (row - 4 if is_load else 1)
        wide, tall = max(0.5, x(span.end_s) - x(span.start_s) - 0.5), 3 if is_load else row - 5
        fill = COLOURS[-1] if is_load else colour[span.label.split("+")[0]]
        style = ' stroke="currentColor" stroke-dasharray="2 2"' if span.kind == "split" else ""
        title = escape(f"{span.label}, {span.kind}, {span.start_s:.2f} to {span.end_s:.2f} s")
        parts.append(
            f'<rect x="{x(span.start_s)}" y="{y}" width="{wide:.1f}" height="{tall}" fill="{fill}"{style}>'
            f"<title>{title}</title></rect>"
        )
    for tick in _ticks(start_s, end_s):
        parts.append(f'<text x="{x(tick)}" y="{height - 22}" text-anchor="middle">{tick:g}</text>')
    parts.append(
        f'<text x="{WIDTH / 2}" y="{height - 6}" text-anchor="middle">seconds; dashed: split over two GPUs</text>'
    )
    return _svg("".join(parts), height) + _legend(
        [*labels, "loading"], [*(colour[each] for each in labels), COLOURS[-1]]
    )


def _axes(frame: _Frame, x_label: str, y_label: str) -> str:
    ticks = "".join(
        f'<text x="{frame.x(tick)}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{tick:g}</text>'
        for tick in _ticks(frame.x0, frame.x1)
    )
    label = f'<text x="{WIDTH / 2}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>'
    return _grid(frame, y_label) + ticks + label


def _grid(frame: _Frame, y_label: str) -> str:
    parts = [f'<text x="{LEFT}" y="12" text-anchor="start">{escape(y_label)}</text>']
    for tick in _ticks(frame.y0, frame.y1):
        y = frame.y(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{tick:g}</text>')
    return "".join(parts)


def _ticks(low: float, high: float) -> list[float]:
    rough = (high - low) / 5 or 1.0
    scale = 10.0 ** math.floor(math.log10(rough))
    step = scale * next(factor for factor in (1, 2, 2.5, 5, 10) if factor * scale >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 10) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _svg(body: str, height: int) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" xmlns="http://www.w3.org/2000/svg">{body}</svg>'


def _legend(names: Sequence[str], colours: Sequence[str] = COLOURS) -> str:
    items = "".join(
        f'<li><span style="background:{colours[index % len(colours)]}"></span>{escape(name)}</li>'
        for index, name in enumerate(names)
    )
    return f'<ul class="legend">{items}</ul>'
