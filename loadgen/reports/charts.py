"""Draws charts as inline SVG; colours come from the page's style sheet (classes ``lego`` and ``baseline``)."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 720
LABEL = 170
VALUE = 110
ROW = 34
THICK = 18


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar from ``start`` to ``end``; ``low`` and ``high`` draw a whisker around its end when given."""

    label: str
    kind: str
    end: float
    text: str
    start: float = 0.0
    low: float | None = None
    high: float | None = None


def bar_chart(bars: Sequence[Bar], title: str) -> str:
    """Return horizontal bars on one scale that begins at zero; ``title`` is what a screen reader says."""
    reach = max([max(bar.end, bar.high or 0.0) for bar in bars] + [1e-9])
    scale = (WIDTH - LABEL - VALUE) / reach
    height = ROW * len(bars) + 8
    rows = "".join(_row(bar, index * ROW + 8, scale) for index, bar in enumerate(bars))
    axis = f'<line class="axis" x1="{LABEL}" x2="{LABEL}" y1="0" y2="{height}"/>'
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{rows}{axis}</svg>"
    )


def _row(bar: Bar, top: float, scale: float) -> str:
    left, right = LABEL + bar.start * scale, LABEL + bar.end * scale
    middle = top + THICK / 2
    tip = max(right, LABEL + (bar.high or 0.0) * scale)
    whisker = ""
    if bar.low is not None and bar.high is not None:
        low, high = LABEL + bar.low * scale, LABEL + bar.high * scale
        whisker = (
            f'<path class="whisker" d="M{low:.1f} {middle - 5:.1f}v10m0 -5H{high:.1f}m0 -5v10"/>' if high > low else ""
        )
    return (
        f'<text class="label" x="{LABEL - 10}" y="{middle:.1f}">{escape(bar.label)}</text>'
        f'<rect class="{escape(bar.kind)}" x="{left:.1f}" y="{top:.1f}" rx="3" '
        f'width="{max(right - left, 1.0):.1f}" height="{THICK}"/>{whisker}'
        f'<text class="value" x="{tip + 8:.1f}" y="{middle:.1f}">{escape(bar.text)}</text>'
    )


PLOT_LEFT, PLOT_RIGHT, PLOT_TOP, PLOT_BOTTOM = 56, 704, 12, 252
TICKS = 5


@dataclass(frozen=True, slots=True)
class Curve:
    """Points (x, y) of one kind, joined by a line; with ``dots`` each is shown by itself."""

    kind: str
    points: Sequence[tuple[float, float]]
    dots: bool = False


def plot(curves: Sequence[Curve], title: str, x_name: str, mark: float | None = None) -> str:
    """Return shares (0 to 1, upwards) over a quantity that begins at zero; ``mark`` is a share to draw a line at."""
    reach = max([x for curve in curves for x, _ in curve.points] + [1e-9])
    drawn = "".join(_curve(curve, reach) for curve in curves)
    line = "" if mark is None else f'<path class="mark" d="M{PLOT_LEFT} {_y(mark):.1f}H{PLOT_RIGHT}"/>'
    return (
        f'<svg viewBox="0 0 {WIDTH} {PLOT_BOTTOM + 48}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{_frame(reach, x_name)}{line}{drawn}</svg>"
    )


def _x(value: float, reach: float) -> float:
    return PLOT_LEFT + value / reach * (PLOT_RIGHT - PLOT_LEFT)


def _y(share: float) -> float:
    return PLOT_BOTTOM - share * (PLOT_BOTTOM - PLOT_TOP)


def _curve(curve: Curve, reach: float) -> str:
    points = [(_x(x, reach), _y(y)) for x, y in curve.points]
    if curve.dots:
        return "".join(f'<circle class="{escape(curve.kind)}" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>' for x, y in points)
    joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline class="curve {escape(curve.kind)}" points="{joined}"/>'


def _frame(reach: float, x_name: str) -> str:
    ticks = [index / TICKS for index in range(TICKS + 1)]
    rows = "".join(
        f'<path class="grid" d="M{PLOT_LEFT} {_y(share):.1f}H{PLOT_RIGHT}"/>'
        f'<text class="label" x="{PLOT_LEFT - 8}" y="{_y(share):.1f}">{share:.0%}</text>'
        for share in ticks
    )
    columns = "".join(
        f'<text class="tick" x="{_x(part * reach, reach):.1f}" y="{PLOT_BOTTOM + 16}">{part * reach:.3g}</text>'
        for part in ticks
    )
    name = f'<text class="tick" x="{(PLOT_LEFT + PLOT_RIGHT) / 2}" y="{PLOT_BOTTOM + 36}">{escape(x_name)}</text>'
    return rows + columns + name
