"""The command that judges adapters and the ControlNet at work in the same images."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from lego_serve.zoo.export import WEIGHTS
from lego_serve.zoo.judge.style import PLAIN
from lego_serve.zoo.judge.together import Both, Setting, both_table, judge_together
from lego_serve.zoo.world.styles import STYLES

SHOWN = 3  # images of each kind of map in a sheet
out, err = Console(), Console(stderr=True)


def judge_together_command(
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
    from lego_serve.zoo.world.generators import together

    settings = settings_of(known_styles(style), scale or [1.0], weight or [1.0])
    found = judge_together(together(base), settings, side, count)
    verdicts = list(track(found, "judging", total=len(settings) * count, console=err))
    rows = both_table(verdicts)
    shown = Table(*rows[0])
    for row in rows:
        shown.add_row(*(str(cell) for cell in row.values()))
    out.print(shown)
    if json_file is not None:
        json_file.write_text(json.dumps({str(side): rows}) + "\n")
    if sheet is not None:
        _write_some(verdicts, settings, sheet)


def known_styles(names: Sequence[str] | None) -> list[str]:
    """These styles, or all and none of them; a name that is unknown is refused."""
    for name in names or []:
        if name not in (PLAIN, *STYLES):
            raise typer.BadParameter(f"there is no style {name}; there are {', '.join((PLAIN, *STYLES))}")
    return list(names or [PLAIN, *STYLES])


def settings_of(styles: Sequence[str], scales: Sequence[float], weights: Sequence[float]) -> list[Setting]:
    """Every combination; without an adapter there is no scale to vary."""
    found = [Setting(s, 1.0 if s == PLAIN else x, w) for s, x, w in itertools.product(styles, scales, weights)]
    return list(dict.fromkeys(found))


def _write_some(verdicts: Sequence[Both], settings: Sequence[Setting], sheet: Path) -> None:
    from lego_serve.zoo.judge.grids import write_grid

    each = len(verdicts) // len(settings)
    rows = [verdicts[at : at + each] for at in range(0, len(verdicts), each)]
    # The first maps are of one thing, those of the second half of two.
    some = [[*row[:SHOWN], *row[each // 2 : each // 2 + SHOWN]] for row in rows]
    maps, names = [v.control for v in some[0]], [v.text for v in some[0]]
    captions = [f"{v.setting.style} x {v.setting.scale:g}, weight {v.setting.weight:g}" for row in some for v in row]
    write_grid([*maps, *(v.pixels for row in some for v in row)], [*names, *captions], sheet, columns=len(maps))
