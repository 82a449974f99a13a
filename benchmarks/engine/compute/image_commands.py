"""The commands that draw lego-tiny's images in several ways and compare them; a file of samples lets them go on."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.engine.compute import linear_kinds, tiers

console = Console()


def linear_kinds_command(
    samples: Annotated[Path, typer.Option(help="Where samples are kept, batch by batch; it goes on from there.")],
    state: Annotated[
        Path | None,
        typer.Option(help="Folder of the lessons that residuals are fitted to; else they are forgotten."),
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Prompts of one object, and as many of two.")] = 16,
    side: Annotated[int, typer.Option(min=96, help="Side of the images in pixels.")] = 256,
    sparse24: Annotated[list[Path] | None, typer.Option(help="Files of `tune sparse24`: their layers too.")] = None,
) -> None:
    """Draw lego-tiny's images with other kinds of linear layers, in 8 bits and with activations in 2:4, and compare."""
    with tempfile.TemporaryDirectory() as folder:
        found = linear_kinds.measure_linear_kinds(samples, state or Path(folder), side, count, sparse24 or ())
    console.print(linear_kinds.markdown(found), markup=False, soft_wrap=True)


def tiers_command(
    samples: Annotated[Path, typer.Option(help="Where samples are kept, batch by batch; it goes on from there.")],
    count: Annotated[int, typer.Option(min=2, help="Prompts of one object, and as many of two.")] = 150,
    side: Annotated[int, typer.Option(min=96, help="Side of the images in pixels.")] = 256,
    controls: Annotated[list[int] | None, typer.Option(help="Evaluations of controls; 14, 10 and 7.")] = None,
    own_rows: Annotated[
        list[float] | None, typer.Option(min=0.01, max=0.99, help="Shares of rows that all steps' later ones compute.")
    ] = None,
    block_rows: Annotated[
        Path | None, typer.Option(help="A router of `tune prune`: its rows, an untrained one's and random ones too.")
    ] = None,
    block_share: Annotated[
        list[float] | None, typer.Option(min=0.05, max=1.0, help="Mean shares of rows of later blocks; 0.6.")
    ] = None,
    sheet: Annotated[Path | None, typer.Option(help="Write a PNG of the first images here, every tier.")] = None,
) -> None:
    """Draw lego-tiny's images in every tier and by controls of as many evaluations, and compare."""
    sparse = tiers.sparse_rows(own_rows or (), block_rows, block_share or (0.6,))
    evaluations = (14, 10, 7) if controls is None else controls
    found = tiers.measure_tiers(samples, side, count, evaluations, sparse, block_rows)
    console.print(tiers.markdown(found), markup=False, soft_wrap=True)
    if sheet is not None:
        tiers.write_sheet(sheet, side, 4)
