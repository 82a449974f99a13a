"""The command that judges edits which read a template's activations, and shows them."""

import json
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
from lego_serve.zoo.judge.edits import ALIKE, FULL, PRIMES, EditVerdict, Way, edit_table, judge_edits

out, err = Console(), Console(stderr=True)
SHOWN = 6  # edits on the sheet
BLIND, TOLD = Way(Quality.HIGH), Way(Quality.HIGH, "caption")  # as served by default, without a caption and with one
WAYS = (
    Way(Quality.EXACT),
    *(Way(Quality.HIGH, prime) for prime in PRIMES),
    *(Way(Quality.HIGH, "caption", coding) for coding in ("bfloat16", "float32")),
    *(Way(quality, prime) for quality in (Quality.CAREFUL, Quality.BALANCED) for prime in ("empty", "caption")),
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
    ways, tables = _chosen(way), {}
    if sheet is not None and not {BLIND, TOLD} <= set(ways):
        raise typer.BadParameter(f"it shows {BLIND} and {TOLD}; name both, or no way", param_hint="--sheet")
    for at, each in enumerate(side or [128, 256]):
        total = count * (len(ways) + 1)
        verdicts = list(track(judge_edits(path, each, count, ways), f"{each} pixels", total=total, console=err))
        tables[str(each)] = edit_table(verdicts)
        if json_file is not None:
            json_file.write_text(json.dumps(tables) + "\n")
        if sheet is not None and at == 0:
            _write_sheet(verdicts, sheet)
    _show(tables)


def _chosen(names: Sequence[str] | None) -> Sequence[Way]:
    """The ways of these names; all without any.  Raises BadParameter for one that is none's."""
    known = {str(way): way for way in WAYS}
    for name in names or ():
        if name not in known:
            raise typer.BadParameter(f"there is no way {name!r}, only {'; '.join(known)}", param_hint="--way")
    return [known[name] for name in names] if names else WAYS


def _show(tables: dict[str, dict[str, dict[str, float]]]) -> None:
    shown = Table(
        "side", "way", "right", "of", "SSIM in the mask", "least", f"from {ALIKE}", "PSNR, dB", "equal outside"
    )
    for side, ways in tables.items():
        for way, row in ways.items():
            alike = f"{row['ssim_mean']:.4f}", f"{row['ssim_least']:.4f}"
            counts = str(row["alike"]), f"{row['psnr_mean']:.1f}", str(row["equal_outside"])
            shown.add_row(side, way, str(row["right"]), str(row["of"]), *alike, *counts)
    out.print(shown)


def _write_sheet(verdicts: Sequence[EditVerdict], sheet: Path) -> None:
    """For each edit a row: the template, its mask, in full, read without a caption and with one, and eight times how
    far the last is from the full one.
    """
    from lego_serve.zoo.judge.grids import write_grid

    images: list[np.ndarray] = []
    captions: list[str] = []
    by_task: dict[int, dict[Way, EditVerdict]] = {}
    for verdict in verdicts:
        by_task.setdefault(id(verdict.task), {})[verdict.way] = verdict
    for ways in list(by_task.values())[:SHOWN]:
        full, uncaptioned_first, read = ways[FULL], ways[BLIND], ways[TOLD]
        task = full.task
        mask = np.repeat(task.mask.numpy()[..., None].astype(np.uint8) * 255, 3, axis=2)
        apart = np.abs(full.pixels.numpy().astype(int) - read.pixels.numpy()) * 8
        images += [
            task.template.numpy(),
            mask,
            full.pixels.numpy(),
            uncaptioned_first.pixels.numpy(),
            read.pixels.numpy(),
        ]
        images.append(np.clip(apart, 0, 255).astype(np.uint8))
        captions += [
            task.before.text,
            "mask",
            f"in full: {task.after.text}",
            f"read, SSIM {uncaptioned_first.ssim:.3f}",
            f"with a caption, SSIM {read.ssim:.3f}",
            "apart, x8",
        ]
    write_grid(images, captions, sheet, columns=6)
