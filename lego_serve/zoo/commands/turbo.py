"""The commands that distil lego-tiny into a student of few steps, and make it a tier of lego-tiny."""

import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

out = Console()
States = Annotated[Path, typer.Option(help="Where states are kept; training resumes from them.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands to the zoo's."""
    app.command("train-turbo")(train_turbo_command)
    app.command("ship-turbo")(ship_turbo_command)


def train_turbo_command(
    export_to: Annotated[Path, typer.Option(help="Model folder to write.")],
    folder: States = Path(".train"),
    minutes: Annotated[float, typer.Option(min=0, help="How long to learn in all, teaching included.")] = 60.0,
) -> None:
    """Distil lego-tiny into four steps without guidance, and write them as a derived model with the tier turbo."""
    from lego_serve.zoo.train.frozen_family import FrozenFamily
    from lego_serve.zoo.turbo import TurboPlan, TurboTrainer, export_turbo

    torch.set_num_threads(1)
    average = TurboTrainer(folder / "turbo", FrozenFamily.load(), TurboPlan(60 * minutes)).run()
    out.print(f"{export_to}: {export_turbo(average, export_to) / 1e6:.2f} MB")


def ship_turbo_command(
    folder: States = Path(".train"),
    export_to: Annotated[
        Path | None, typer.Option(help="Write the student here alone, to judge it; without it into the package.")
    ] = None,
    judged: Annotated[
        Path | None, typer.Option(help="What `judge --json` counted of it, to be kept with the tier.")
    ] = None,
) -> None:
    """Write the student of a training folder as it is, and make it the tier turbo of the lego-tiny that ships."""
    from lego_serve.zoo.turbo import STUDENT, add_tier, export_turbo, trained_average

    if export_to is not None and judged is not None:
        raise typer.BadParameter("is kept with the tier, which `--export-to` does not write", param_hint="--judged")
    quality: dict[str, Any] = {} if judged is None else {"judged": json.loads(judged.read_text())}
    target = export_to or STUDENT
    out.print(f"{target}: {export_turbo(trained_average(folder / 'turbo'), target) / 1e6:.2f} MB")
    if export_to is None:
        steps = ", ".join(map(str, add_tier(quality)))
        out.print(f"lego-tiny has the tier turbo for {steps} steps")
