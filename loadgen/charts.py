"""Bar charts as inline SVG; colours come from the page's style sheet (classes ``lego`` and ``baseline``)."""

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
    """Horizontal bars on one scale that begins at zero; ``title`` is what a screen reader says."""
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
