"""The command that judges images with an adapter beside the ControlNet."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from lego_serve.zoo.commands.output import write_json
from lego_serve.zoo.export import WEIGHTS
from lego_serve.zoo.judge.combined import CombinedSetting, CombinedVerdict, combined_table, judge_combined
from lego_serve.zoo.judge.style import PLAIN
from lego_serve.zoo.world.styles import STYLES

SHOWN = 3  # images of each kind of map in a sheet
out, err = Console(), Console(stderr=True)


def judge_combined_command(
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the counts here.")] = None,
    style: Annotated[list[str] | None, typer.Option(help="Styles, or base for no adapter; all if none.")] = None,
    scale: Annotated[list[float] | None, typer.Option(help="Scales of the adapters; 1 if none.")] = None,
    weight: Annotated[list[float] | None, typer.Option(help="Weights of the ControlNet; 1 if none.")] = None,
    side: Annotated[int, typer.Option(help="Width and height.")] = 128,
    count: Annotated[int, typer.Option(help="Maps for each setting.")] = 50,
    base: Annotated[Path, typer.Option(help="Model folder of the family; the shipped one if none.")] = WEIGHTS,
    sheet: Annotated[Path | None, typer.Option(help="Write a PNG of some images of each setting here.")] = None,
) -> None:
    """Count the held-out maps that are followed, and in the right style, with an adapter beside the ControlNet."""
    from lego_serve.zoo.judge.generators import combined

    settings = settings_of(known_styles(style), scale or [1.0], weight or [1.0])
    judged = judge_combined(combined(base), settings, side, count)
    verdicts = list(track(judged, "judging", total=len(settings) * count, console=err))
    rows = combined_table(verdicts)
    shown = Table(*rows[0])
    for row in rows:
        shown.add_row(*(str(cell) for cell in row.values()))
    out.print(shown)
    write_json({str(side): rows}, json_file)
    if sheet is not None:
        _write_sheet(verdicts, settings, sheet)


def known_styles(names: Sequence[str] | None) -> list[str]:
    """Return these styles, by default the base and all styles.  Raises BadParameter for an unknown name."""
    for name in names or []:
        if name not in (PLAIN, *STYLES):
            raise typer.BadParameter(f"there is no style {name}; there are {', '.join((PLAIN, *STYLES))}")
    return list(names or [PLAIN, *STYLES])


def settings_of(styles: Sequence[str], scales: Sequence[float], weights: Sequence[float]) -> list[CombinedSetting]:
    """Return every combination once; without an adapter there is no scale to vary."""
    product = itertools.product(styles, scales, weights)
    settings = [CombinedSetting(style, 1.0 if style == PLAIN else scale, weight) for style, scale, weight in product]
    return list(dict.fromkeys(settings))


def _write_sheet(verdicts: Sequence[CombinedVerdict], settings: Sequence[CombinedSetting], sheet: Path) -> None:
    from lego_serve.zoo.judge.grids import write_grid

    size = len(verdicts) // len(settings)
    rows = [verdicts[first : first + size] for first in range(0, len(verdicts), size)]
    # The first half of the maps shows one thing, the second half two.
    shown = [[*row[:SHOWN], *row[size // 2 : size // 2 + SHOWN]] for row in rows]
    maps, names = [v.control for v in shown[0]], [v.text for v in shown[0]]
    captions = [f"{v.setting.style} x {v.setting.scale:g}, weight {v.setting.weight:g}" for row in shown for v in row]
    write_grid([*maps, *(v.pixels for row in shown for v in row)], [*names, *captions], sheet, columns=len(maps))
