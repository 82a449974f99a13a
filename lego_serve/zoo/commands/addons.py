"""The commands that train, judge, show and derive lego-tiny's ControlNet and adapters."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from lego_serve.zoo.commands.combined import judge_combined_command, known_styles
from lego_serve.zoo.commands.output import write_json
from lego_serve.zoo.export import WEIGHTS
from lego_serve.zoo.judge.controlnet import MapVerdict, judge_controlnet, map_table
from lego_serve.zoo.judge.style import PLAIN, StyleVerdict, judge_styles, style_table
from lego_serve.zoo.world.styles import STYLES

out, err = Console(), Console(stderr=True)
Base = Annotated[Path, typer.Option(help="Model folder of the family; the shipped one if none.")]
States = Annotated[Path, typer.Option(help="Where states are kept; training resumes from them.")]
Sides = Annotated[list[int] | None, typer.Option(help="Sides in pixels; 128 if none.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the counts here.")]
Sheet = Annotated[Path | None, typer.Option(help="Write a PNG of what went wrong here.")]
STATES = Path(".train/addons")


def add_to(app: typer.Typer) -> None:
    """Add these commands to the zoo's."""
    for name, command in (
        ("train-controlnet", train_controlnet_command),
        ("train-lora", train_lora_command),
        ("judge-controlnet", judge_controlnet_command),
        ("judge-style", judge_style_command),
        ("judge-together", judge_combined_command),
        ("grid-control", grid_control_command),
        ("grid-styles", grid_styles_command),
        ("derive", derive_command),
        ("derive-controlnets", derive_controlnets_command),
    ):
        app.command(name)(command)


def train_controlnet_command(
    folder: States = STATES,
    base: Base = WEIGHTS,
    steps: Annotated[int, typer.Option(help="Optimiser steps in all.")] = 1000,
) -> None:
    """Train the outline ControlNet and write its folder."""
    from lego_serve.zoo.train.controlnet import CONTROLNET, ControlPlan, export_controlnet, train_controlnet
    from lego_serve.zoo.train.frozen_family import FrozenFamily

    torch.set_num_threads(1)
    net = train_controlnet(folder, FrozenFamily.load(base), ControlPlan(steps=steps))
    out.print(f"{CONTROLNET}: {export_controlnet(net) / 1e6:.2f} MB")


def train_lora_command(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(STYLES)}.")],
    folder: States = STATES,
    base: Base = WEIGHTS,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps in all; the style's own number if none.")] = None,
    alone: Annotated[bool, typer.Option(help="Never beside the outline ControlNet.")] = False,
) -> None:
    """Train the adapter of a style and write its file."""
    if name not in STYLES:
        raise typer.BadParameter(f"there is no style {name}; there are {', '.join(STYLES)}")
    from lego_serve.zoo.judge.generators import shipped_controlnet
    from lego_serve.zoo.train.frozen_family import FrozenFamily
    from lego_serve.zoo.train.lora import STEPS, LoraPlan, adapter_file, train_lora
    from lego_serve.zoo.train.lora_modules import save_adapter

    torch.set_num_threads(1)
    file = adapter_file(name)
    plan = LoraPlan(steps=STEPS[name] if steps is None else steps)
    net = None if alone else shipped_controlnet()
    size = save_adapter(train_lora(folder, FrozenFamily.load(base), name, plan, net), file)
    out.print(f"{file}: {size / 1e6:.2f} MB")


def judge_controlnet_command(
    json_file: JsonFile = None,
    side: Sides = None,
    count: Annotated[int, typer.Option(help="Maps at each side.")] = 200,
    base: Base = WEIGHTS,
    without: Annotated[bool, typer.Option(help="Leave the ControlNet out, to see what chance does.")] = False,
    sheet: Sheet = None,
) -> None:
    """Count the held-out outline maps that are followed."""
    from lego_serve.zoo.judge.generators import controlled

    sides = side or [128]
    judged = judge_controlnet(controlled(base, with_net=not without), sides, count)
    verdicts = list(track(judged, "judging", total=len(sides) * count, console=err))
    _show_maps(map_table(verdicts), json_file)
    if sheet is not None:
        _write_maps([v for v in verdicts if not v.is_followed][:12], sheet)


def judge_style_command(
    json_file: JsonFile = None,
    style: Annotated[list[str] | None, typer.Option(help="Styles, or base for no adapter; all if none.")] = None,
    side: Sides = None,
    count: Annotated[int, typer.Option(help="Prompts for each style and for the base.")] = 100,
    scale: Annotated[float, typer.Option(help="Scale of the adapters.")] = 1.0,
    base: Base = WEIGHTS,
    sheet: Sheet = None,
) -> None:
    """Count the images whose style is recognised, with each adapter and with none."""
    from lego_serve.zoo.judge.generators import styled

    sides = side or [128]
    styles = known_styles(style)
    judged = judge_styles(styled(base, scale), sides, count, styles)
    verdicts = list(track(judged, "judging", total=len(sides) * len(styles) * count, console=err))
    _show_styles(style_table(verdicts), json_file)
    if sheet is not None:
        _write_mistaken(verdicts, sheet)


def grid_control_command(file: Path, base: Base = WEIGHTS, side: int = 128, count: int = 9) -> None:
    """Draw held-out outline maps, each beside the image that follows it."""
    from lego_serve.zoo.judge.generators import controlled

    _write_maps(list(judge_controlnet(controlled(base, with_net=True), [side], count)), file)


def grid_styles_command(file: Path, base: Base = WEIGHTS, side: int = 128, count: int = 6) -> None:
    """Draw the same held-out prompts without an adapter and with each."""
    from lego_serve.zoo.judge.generators import styled
    from lego_serve.zoo.judge.grids import write_grid

    verdicts = list(judge_styles(styled(base), [side], count))
    write_grid([v.pixels for v in verdicts], [f"{v.wanted}: {v.text}" for v in verdicts], file, columns=count)


def derive_command(
    folder: Path,
    count: Annotated[int, typer.Option(help="How many adapters.")] = 200,
) -> None:
    """Write adapters for load tests, derived from the shipped ones; the same every time."""
    from lego_serve.zoo.train.derive import derive_adapters
    from lego_serve.zoo.train.lora import adapter_file

    sources = [adapter_file(style) for style in STYLES]
    files = list(track(derive_adapters(sources, folder, count), "deriving", total=count, console=err))
    out.print(f"{folder}: {len(files)} adapters, {sum(f.stat().st_size for f in files) / 1e6:.1f} MB")


def derive_controlnets_command(
    folder: Path,
    count: Annotated[int, typer.Option(help="How many ControlNets.")] = 20,
) -> None:
    """Write ControlNets for load tests, derived from the shipped one; the same every time."""
    from lego_serve.zoo.train.controlnet import CONTROLNET
    from lego_serve.zoo.train.derive import derive_controlnets

    folders = list(track(derive_controlnets(CONTROLNET, folder, count), "deriving", total=count, console=err))
    size = sum(file.stat().st_size for derived in folders for file in derived.iterdir())
    out.print(f"{folder}: {len(folders)} ControlNets, {size / 1e6:.1f} MB")


def _show_maps(counts: dict[str, dict[str, dict[str, float]]], json_file: Path | None) -> None:
    [first_kind, *_] = next(iter(counts.values())).values()
    shown = Table("side", "kind", *first_kind)
    for side, kinds in counts.items():
        for kind, cell in kinds.items():
            shown.add_row(side, kind, *(str(count) for count in cell.values()))
    out.print(shown)
    write_json(counts, json_file)


def _show_styles(counts: dict[str, dict[str, dict[str, int]]], json_file: Path | None) -> None:
    shown = Table("side", "drawn as", *(f"seen as {name}" for name in (PLAIN, *STYLES)))
    for side, styles in counts.items():
        for wanted, seen in styles.items():
            shown.add_row(side, wanted, *(str(n) for n in seen.values()))
    out.print(shown)
    write_json(counts, json_file)


def _write_maps(verdicts: Sequence[MapVerdict], sheet: Path) -> None:
    from lego_serve.zoo.judge.grids import write_grid

    if verdicts:
        images = [image for v in verdicts for image in (v.control, v.pixels)]
        captions = [text for v in verdicts for text in (f"map, overlap {v.overlap:.2f}", v.text)]
        write_grid(images, captions, sheet)


def _write_mistaken(verdicts: Sequence[StyleVerdict], sheet: Path) -> None:
    from lego_serve.zoo.judge.grids import write_grid

    wrong = [v for v in verdicts if v.seen != v.wanted and v.side == verdicts[0].side][:36]
    if wrong:
        write_grid([v.pixels for v in wrong], [f"{v.wanted} seen as {v.seen}: {v.text}" for v in wrong], sheet)
