"""``python -m lego_serve.zoo --help``: make lego-tiny and its add-ons, and see how good they are."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from lego_serve.core.tiers.book import EXACT
from lego_serve.engine.offline import OfflinePipeline
from lego_serve.errors import LegoError
from lego_serve.models.registry import ModelSpec
from lego_serve.models.tier_files import read_book
from lego_serve.zoo.commands import addons, edits, turbo
from lego_serve.zoo.commands.output import write_json
from lego_serve.zoo.judge.prompts import KINDS, Generate, Verdict, held_out_prompts, judge, table

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Make lego-tiny, and see how good it is.")
addons.add_to(app)
edits.add_to(app)
turbo.add_to(app)
out = Console()
Weights = Annotated[str, typer.Option(help="A model folder, or builtin:lego-tiny.")]
STEPS, GUIDANCE = 20, 4.0


@app.command("train")
def train_command(
    folder: Annotated[Path, typer.Option(help="Where states are kept; training resumes from them.")] = Path(".train"),
    steps: Annotated[int, typer.Option(help="Steps of the backbone.")] = 4600,
    compiled: Annotated[bool, typer.Option(help="Compile the backbone first.")] = False,
    export_to: Annotated[Path | None, typer.Option(help="Model folder to write; the shipped one if none.")] = None,
) -> None:
    """Train every stage that is not done yet, then write the model folder."""
    from lego_serve.zoo.export import WEIGHTS, export, trained
    from lego_serve.zoo.train.stages import TrainingPlan, train

    train(folder, TrainingPlan(backbone_steps=steps, compiled=compiled))
    target = export_to or WEIGHTS
    out.print(f"{target}: {export(trained(folder), target) / 1e6:.1f} MB")


@app.command("judge")
def judge_command(
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the counts here.")] = None,
    side: Annotated[list[int] | None, typer.Option(help="Sides in pixels; 128 and 256 if none.")] = None,
    count: Annotated[int, typer.Option(help="Prompts of each kind.")] = 300,
    path: Weights = "builtin:lego-tiny",
    steps: Annotated[int, typer.Option(min=1, help="Steps of an image.")] = STEPS,
    guidance: Annotated[float, typer.Option(min=0, help="Guidance of an image.")] = GUIDANCE,
    tier: Annotated[str, typer.Option(help="Tier of the model in which to draw.")] = EXACT,
    sheet: Annotated[Path | None, typer.Option(help="Write a PNG of what went wrong here.")] = None,
) -> None:
    """Count the held-out prompts that are drawn right."""
    sides = side or [128, 256]
    total = len(sides) * len(KINDS) * count
    verdicts = list(
        track(
            judge(_generator(path, steps, guidance, tier), sides, count),
            "judging",
            total=total,
            console=Console(stderr=True),
        )
    )
    _show(verdicts)
    write_json(table(verdicts), json_file)
    if sheet is not None:
        _write_faults(verdicts, sheet)


@app.command("grid")
def grid_command(
    file: Path, path: Weights = "builtin:lego-tiny", side: int = 128, count: int = 18, seed: int = 0
) -> None:
    """Draw held-out prompts, one and two objects, on one sheet."""
    from lego_serve.zoo.judge.grids import write_grid

    texts = [p.text for things in (1, 2) for p in held_out_prompts(things, count // 2)]
    images = _generator(path)(texts, range(seed, seed + len(texts)), side)
    write_grid(list(images), texts, file)


def _generator(path: str, steps: int = STEPS, guidance: float = GUIDANCE, tier: str = EXACT) -> Generate:
    torch.set_num_threads(1)
    book = read_book(path)
    checkpoint = book.checkpoints.get(tier)
    if checkpoint is not None:  # its text encoders and its VAE are the same
        path, guidance = checkpoint.path, guidance if checkpoint.guidance is None else checkpoint.guidance
    family = OfflinePipeline.load(ModelSpec("lego-tiny", path, dtype="float32", max_sequence_length=0))

    def generate(prompts: Sequence[str], seeds: Sequence[int], side: int) -> np.ndarray:
        run = book.choose(tier, "euler", steps, side, side)
        grid = None if run is None else run.grid
        images = family.generate(
            prompts, width=side, height=side, steps=steps, guidance=guidance, seeds=seeds, grid=grid
        )
        return images.numpy()

    return generate


def _show(verdicts: Sequence[Verdict]) -> None:
    shown = Table("side", "kind", "right", "of", "%", "what was wrong (an image may have several)")
    for side, kinds in table(verdicts).items():
        for kind, cell in kinds.items():
            wrong: dict[str, int] = {}
            for verdict in verdicts:
                if (str(verdict.side), verdict.kind) == (side, kind):
                    for fault in set(verdict.faults):
                        wrong[fault] = wrong.get(fault, 0) + 1
            words = ", ".join(f"{name} {n}" for name, n in sorted(wrong.items(), key=lambda item: -item[1]))
            share = f"{100 * cell['right'] / cell['of']:.1f}"
            shown.add_row(side, kind, str(cell["right"]), str(cell["of"]), share, words)
    out.print(shown)


def _write_faults(verdicts: Sequence[Verdict], sheet: Path) -> None:
    from lego_serve.zoo.judge.grids import write_grid

    wrong = [v for v in verdicts if v.faults and v.side == verdicts[0].side][:36]
    if wrong:
        write_grid([v.pixels for v in wrong], [f"{v.prompt.text} [{' '.join(v.faults)}]" for v in wrong], sheet)


if __name__ == "__main__":
    try:
        app()
    except LegoError as error:
        out.print(f"error: {error.message}")
        raise SystemExit(1) from None
