"""The command that judges and shows edits that reuse a template's activations."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from lego_serve.core.editing.reuse import Quality
from lego_serve.zoo.commands.output import write_json
from lego_serve.zoo.judge.edits import ALIKE, FULL, PRIMES, EditMethod, EditVerdict, edit_table, judge_edits

out, err = Console(), Console(stderr=True)
SHOWN = 6  # edits on the sheet
UNCAPTIONED, CAPTIONED = EditMethod(Quality.HIGH), EditMethod(Quality.HIGH, "caption")  # as served by default
METHODS = (
    EditMethod(Quality.EXACT),
    *(EditMethod(Quality.HIGH, prime) for prime in PRIMES),
    *(EditMethod(Quality.HIGH, "caption", coding) for coding in ("bfloat16", "float32")),
    *(EditMethod(quality, prime) for quality in (Quality.CAREFUL, Quality.BALANCED) for prime in ("empty", "caption")),
)


def add_to(app: typer.Typer) -> None:
    """Add the command to the zoo's."""
    app.command("judge-edits")(judge_edits_command)


def judge_edits_command(
    side: Annotated[list[int] | None, typer.Option(help="Sides in pixels; 128 and 256 if none.")] = None,
    count: Annotated[int, typer.Option(help="Edits at each side.")] = 100,
    way: Annotated[list[str] | None, typer.Option(help="Only ways named so, as in 'high, caption, int8'.")] = None,
    path: Annotated[str, typer.Option(help="A model folder, or builtin:lego-tiny.")] = "builtin:lego-tiny",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here.")] = None,
    sheet: Annotated[Path | None, typer.Option(help="Write a PNG of the first few edits here, every way.")] = None,
) -> None:
    """Compute held-out edits in full and by reading activations, and compare."""
    torch.set_num_threads(1)
    methods, tables = _named_methods(way), {}
    if sheet is not None and not {UNCAPTIONED, CAPTIONED} <= set(methods):
        raise typer.BadParameter(f"it shows {UNCAPTIONED} and {CAPTIONED}; name both, or no way", param_hint="--sheet")
    for index, pixels in enumerate(side or [128, 256]):
        total = count * (len(methods) + 1)
        judged = judge_edits(path, pixels, count, methods)
        verdicts = list(track(judged, f"{pixels} pixels", total=total, console=err))
        tables[str(pixels)] = edit_table(verdicts)
        write_json(tables, json_file)
        if sheet is not None and index == 0:
            _write_sheet(verdicts, sheet)
    _show(tables)


def _named_methods(names: Sequence[str] | None) -> Sequence[EditMethod]:
    """Return the methods of these names, all without any.  Raises BadParameter for an unknown name."""
    known = {str(method): method for method in METHODS}
    for name in names or ():
        if name not in known:
            raise typer.BadParameter(f"there is no way {name!r}, only {'; '.join(known)}", param_hint="--way")
    return [known[name] for name in names] if names else METHODS


def _show(tables: dict[str, dict[str, dict[str, float]]]) -> None:
    shown = Table(
        "side", "way", "right", "of", "SSIM in the mask", "least", f"from {ALIKE}", "PSNR, dB", "equal outside"
    )
    for side, rows in tables.items():
        for method, row in rows.items():
            shown.add_row(
                side,
                method,
                str(row["right"]),
                str(row["of"]),
                f"{row['ssim_mean']:.4f}",
                f"{row['ssim_least']:.4f}",
                str(row["alike"]),
                f"{row['psnr_mean']:.1f}",
                str(row["equal_outside"]),
            )
    out.print(shown)


def _write_sheet(verdicts: Sequence[EditVerdict], sheet: Path) -> None:
    """Write a row for each of the first edits.

    Its columns are the template, the mask, the full computation, reuse without a caption and with one, and the
    difference of the last to the full computation, times eight.
    """
    from lego_serve.zoo.judge.grids import write_grid

    images: list[np.ndarray] = []
    captions: list[str] = []
    by_task: dict[int, dict[EditMethod, EditVerdict]] = {}
    for verdict in verdicts:
        by_task.setdefault(id(verdict.task), {})[verdict.method] = verdict
    for methods in list(by_task.values())[:SHOWN]:
        full, uncaptioned, captioned = methods[FULL], methods[UNCAPTIONED], methods[CAPTIONED]
        task = full.task
        mask = np.repeat(task.mask.numpy()[..., None].astype(np.uint8) * 255, 3, axis=2)
        difference = np.abs(full.pixels.numpy().astype(int) - captioned.pixels.numpy()) * 8
        row = {
            task.before.text: task.template.numpy(),
            "mask": mask,
            f"in full: {task.after.text}": full.pixels.numpy(),
            f"read, SSIM {uncaptioned.ssim:.3f}": uncaptioned.pixels.numpy(),
            f"with a caption, SSIM {captioned.ssim:.3f}": captioned.pixels.numpy(),
            "apart, x8": np.clip(difference, 0, 255).astype(np.uint8),
        }
        images += row.values()
        captions += row
    write_grid(images, captions, sheet, columns=6)
