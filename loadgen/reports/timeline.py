"""Draws values over time as inline SVG, each a dot whose colour says what it was."""

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 720, 300
LEFT, RIGHT, TOP, BOTTOM = 56, 704, 12, 252
TICKS = 5
MOST_DOTS = 1500  # of each kind; more would make the page heavy and show no more

Points = Sequence[tuple[float, float]]


def timeline(kinds: Mapping[str, Points], title: str, x_name: str) -> str:
    """Return dots (x, y) by kind over axes that begin at zero; ``title`` is what a screen reader says."""
    reach_x = _round_up(max([x for points in kinds.values() for x, _ in points] + [1e-9]))
    reach_y = _round_up(max([y for points in kinds.values() for _, y in points] + [1e-9]))
    dots = "".join(_dots(kind, points, reach_x, reach_y) for kind, points in kinds.items())
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{_frame(reach_x, reach_y, x_name)}{dots}</svg>"
    )


def _round_up(reach: float) -> float:
    """Return the next number whose fifths are easy to read."""
    power = 10.0 ** math.floor(math.log10(reach))
    return next(factor * power for factor in (1, 1.5, 2, 2.5, 3, 4, 5, 7.5, 10) if factor * power >= 0.999 * reach)


def _dots(kind: str, points: Points, reach_x: float, reach_y: float) -> str:
    step = max(1, -(-len(points) // MOST_DOTS))
    return "".join(
        f'<circle class="{escape(kind)}" cx="{LEFT + x / reach_x * (RIGHT - LEFT):.1f}" '
        f'cy="{BOTTOM - y / reach_y * (BOTTOM - TOP):.1f}" r="2.2"/>'
        for x, y in points[::step]
    )


def _frame(reach_x: float, reach_y: float, x_name: str) -> str:
    parts = [index / TICKS for index in range(TICKS + 1)]
    rows = "".join(
        f'<path class="grid" d="M{LEFT} {BOTTOM - part * (BOTTOM - TOP):.1f}H{RIGHT}"/>'
        f'<text class="label" x="{LEFT - 8}" y="{BOTTOM - part * (BOTTOM - TOP):.1f}">{part * reach_y:.3g}</text>'
        for part in parts
    )
    columns = "".join(
        f'<text class="tick" x="{LEFT + part * (RIGHT - LEFT):.1f}" y="{BOTTOM + 16}">{part * reach_x:.3g}</text>'
        for part in parts
    )
    return f'{rows}{columns}<text class="tick" x="{(LEFT + RIGHT) / 2}" y="{BOTTOM + 36}">{escape(x_name)}</text>'
