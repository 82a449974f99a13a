"""What a step costs, without Ray: ``python -m benchmarks.engine COMMAND``.

All commands but ``planner``, ``prepacked``, ``gelu``, ``int8``, ``linear-kinds`` and ``tiers`` first compare kernels
with their references and the model's velocities with diffusers', and stop where they differ.  Without a GPU they run
lego-tiny and a small FLUX; with ``--device cuda`` SD3.5 medium and FLUX.1-dev at their real sizes with random weights,
which need no download.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from benchmarks.engine import forms, gelu, masked, planner, prepacked, ragged, steps
from benchmarks.engine.checks import Disagreement, checked
from benchmarks.engine.compute import appended, image_commands, int8
from benchmarks.engine.models import ARCHITECTURES, DEFAULTS, Subject, build
from benchmarks.engine.report import Report, machine_info, write_reports
from benchmarks.engine.timing import Patience
from lego_serve.errors import ConfigError
from lego_serve.models.ragged.activations import ACTIVATION_CODECS

LANES = (1, 2, 4, 8)
QUICK = Patience(rounds=3, least_s=0.0)
REQUIRES_INVARIANCE = {"cpu": True, "cuda": False}  # as in the configurations that ship

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)
console = Console()
Family = Annotated[str | None, typer.Option(help="Only the model of this family: sd3 or flux.")]
Model = Annotated[list[str] | None, typer.Option(help=f"Models instead, of: {', '.join(ARCHITECTURES)}.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
Seconds = Annotated[float, typer.Option(min=0, help="Measure each case for at least so long.")]
BatchInvariant = Annotated[
    bool | None, typer.Option(help="Require batch invariance: equal bits in any batch; default: on a CPU.")
]
Quick = Annotated[bool, typer.Option("--quick", help="A few cases and rounds, to see that it runs.")]
Json = Annotated[Path | None, typer.Option("--json", help="Also write the numbers to this file.")]
Markdown = Annotated[Path | None, typer.Option("--markdown", help="Also write the tables to this file.")]


@app.command("steps")
def steps_command(
    family: Family = None,
    model: Model = None,
    device: Device = "cpu",
    lanes: Annotated[list[int] | None, typer.Option(min=1, help="Numbers of lanes.")] = None,
    side: Annotated[list[int] | None, typer.Option(min=1, help="Sides of images, in tokens.")] = None,
    compiled: Annotated[bool | None, typer.Option(help="Time diffusers compiled too; by default on a GPU.")] = None,
    batch_invariant: BatchInvariant = None,
    seconds: Seconds = 1.0,
    quick: Quick = False,
    to_json: Json = None,
    to_markdown: Markdown = None,
) -> None:
    """Time steps over sizes and numbers of lanes, next to diffusers' transformer on the same tokens."""
    is_compiled = device == "cuda" if compiled is None else compiled
    patience = QUICK if quick else Patience(least_s=seconds)
    sides, counts = (side or (6,), lanes or (1, 2)) if quick else (side or (), lanes or LANES)
    plan = steps.StepPlan(sides, counts, is_compiled, patience)
    rows, models = [], {}
    for subject, checks in _subjects(family, model, device, batch_invariant):
        rows += steps.measure_steps(subject, plan)
        models[subject.name] = checks
    _finish(steps.step_report(rows), torch.device(device), models, to_json, to_markdown)


@app.command("ragged")
def ragged_command(
    family: Family = None,
    model: Model = None,
    device: Device = "cpu",
    batch_invariant: BatchInvariant = None,
    seconds: Seconds = 3.0,
    quick: Quick = False,
    to_json: Json = None,
    to_markdown: Markdown = None,
) -> None:
    """Time batches of mixed sizes against uniform batches of as many lanes and tokens."""
    mixes = ragged.MIXES[:2] if quick else ragged.MIXES
    rows, models = [], {}
    for subject, checks in _subjects(family, model, device, batch_invariant):
        rows += ragged.measure_ragged(subject, mixes, QUICK if quick else Patience(least_s=seconds))
        models[subject.name] = checks
    _finish(ragged.ragged_report(rows), torch.device(device), models, to_json, to_markdown)


@app.command("masked")
def masked_command(
    family: Family = None,
    model: Model = None,
    device: Device = "cpu",
    lanes: Annotated[list[int] | None, typer.Option(min=1, help="Numbers of lanes.")] = None,
    side: Annotated[list[int] | None, typer.Option(min=1, help="Sides of images, in tokens.")] = None,
    coding: Annotated[
        list[str] | None, typer.Option(help=f"How rows are kept: {', '.join(ACTIVATION_CODECS)}.")
    ] = None,
    batch_invariant: BatchInvariant = None,
    seconds: Seconds = 1.0,
    quick: Quick = False,
    to_json: Json = None,
    to_markdown: Markdown = None,
) -> None:
    """Time steps that compute a part of the image and read the rest, next to those that compute all of it."""
    patience = QUICK if quick else Patience(least_s=seconds)
    rows, models = [], {}
    for subject, checks in _subjects(family, model, device, batch_invariant):
        sides = _sides(subject, side, quick=quick)
        counts = lanes or ((1,) if quick else (1, 8))
        rows += masked.measure_masked(subject, sides, counts, coding or ("bfloat16",), patience)
        models[subject.name] = checks
    _finish(masked.masked_report(rows), torch.device(device), models, to_json, to_markdown)


@app.command("forms")
def forms_command(
    model: Model = None,
    device: Device = "cpu",
    lanes: Annotated[int, typer.Option(min=1, help="Lanes in the batch.")] = 8,
    side: Annotated[list[int] | None, typer.Option(min=1, help="Sides of images, in tokens.")] = None,
    batch_invariant: BatchInvariant = None,
    seconds: Seconds = 1.0,
    quick: Quick = False,
    to_json: Json = None,
    to_markdown: Markdown = None,
) -> None:
    """Time masked steps that read kept keys and values against those that compute them from kept block inputs."""
    patience = QUICK if quick else Patience(least_s=seconds)
    rows, models = [], {}
    for subject, checks in _subjects("sd3", model, device, batch_invariant):
        sides = _sides(subject, side, quick=quick)
        rows += forms.measure_forms(subject, sides, 1 if quick else lanes, patience)
        models[subject.name] = checks
    _finish(forms.forms_report(rows), torch.device(device), models, to_json, to_markdown)


@app.command("planner")
def planner_command(quick: Quick = False, to_json: Json = None, to_markdown: Markdown = None) -> None:
    """Time the planning of a step over numbers of lanes, for every order."""
    rows = planner.measure_planner(planner.LANES[:2], 20) if quick else planner.measure_planner()
    _finish(planner.planner_report(rows), torch.device("cpu"), {}, to_json, to_markdown)


@app.command("prepacked")
def prepacked_command(
    seconds: Seconds = 0.5, quick: Quick = False, to_json: Json = None, to_markdown: Markdown = None
) -> None:
    """Time linear layers with weights as they are and laid out ahead of time, on the CPU."""
    torch.set_num_threads(1)
    layers, rows = (prepacked.LAYERS[:1], prepacked.ROWS[:1]) if quick else (prepacked.LAYERS, prepacked.ROWS)
    results = prepacked.measure_prepacked(layers, rows, QUICK if quick else Patience(least_s=seconds))
    _finish(prepacked.prepacked_report(results), torch.device("cpu"), {}, to_json, to_markdown)


@app.command("gelu")
def gelu_command(
    seconds: Seconds = 0.5, quick: Quick = False, to_json: Json = None, to_markdown: Markdown = None
) -> None:
    """Time linear layers and their GELU in two passes and in one, in bf16 on the CPU."""
    torch.set_num_threads(1)
    layers, rows = (gelu.LAYERS[:1], gelu.ROWS[:2]) if quick else (gelu.LAYERS, gelu.ROWS)
    results = gelu.measure_gelu(layers, rows, QUICK if quick else Patience(least_s=seconds))
    _finish(gelu.gelu_report(results), torch.device("cpu"), {}, to_json, to_markdown)


@app.command("appended")
def appended_command(
    model: Model = None,
    device: Device = "cpu",
    lanes: Annotated[list[int] | None, typer.Option(min=1, help="Numbers of lanes.")] = None,
    batch_invariant: BatchInvariant = None,
    seconds: Seconds = 3.0,
    quick: Quick = False,
    to_json: Json = None,
    to_markdown: Markdown = None,
) -> None:
    """Time steps that read a kept reference image against steps without one, and with its rows in the sequence."""
    rows, models = [], {}
    for subject, checks in _subjects(None, model, device, batch_invariant):
        rows += appended.measure_appended(subject, lanes or (1, 4), QUICK if quick else Patience(least_s=seconds))
        models[subject.name] = checks
    _finish(appended.appended_report(rows), torch.device(device), models, to_json, to_markdown)


@app.command("int8")
def int8_command(
    count: Annotated[int, typer.Option(min=0, help="Images to compare with those in fp32.")] = 24,
    seconds: Seconds = 1.0,
    quick: Quick = False,
    to_json: Json = None,
    to_markdown: Markdown = None,
) -> None:
    """Time steps whose blocks multiply in 8 bits against steps in fp32, on the CPU, and compare images."""
    torch.set_num_threads(1)
    names, sides = (int8.NAMES[1:], int8.SIDES[:1]) if quick else (int8.NAMES, int8.SIDES)
    rows = int8.measure_int8(names, sides, QUICK if quick else Patience(least_s=seconds))
    found = [] if quick or not count else int8.likeness(count)
    _finish(int8.int8_report(rows, found), torch.device("cpu"), {}, to_json, to_markdown)


app.command("linear-kinds")(image_commands.linear_kinds_command)
app.command("tiers")(image_commands.tiers_command)


def _subjects(
    family: str | None, models: list[str] | None, device: str, batch_invariant: bool | None
) -> Iterator[tuple[Subject, dict[str, Any]]]:
    """Yield the chosen models with the results of their checks, one at a time; exit where a check fails."""
    if device not in DEFAULTS:
        raise typer.BadParameter("the device is cpu or cuda")
    if unknown := sorted(set(models or ()) - set(ARCHITECTURES)):
        raise typer.BadParameter(f"no model {unknown[0]}; there are {', '.join(ARCHITECTURES)}")
    if device == "cuda" and not torch.cuda.is_available():
        raise typer.BadParameter("torch finds no GPU here")
    names = [name for name in models or DEFAULTS[device] if family in (None, ARCHITECTURES[name].family)]
    if not names:
        raise typer.BadParameter(f"none of these models is of the family {family}")
    torch.set_num_threads(1)
    required = REQUIRES_INVARIANCE[device] if batch_invariant is None else batch_invariant
    for name in names:
        subject = build(name, torch.device(device))
        try:
            yield subject, _check(subject, required)
        except (Disagreement, ConfigError) as error:
            console.print(f"Nothing was timed: {error}")
            raise typer.Exit(1) from None
        del subject  # so that the next model finds its memory free


def _sides(subject: Subject, chosen: list[int] | None, *, quick: bool) -> Sequence[int]:
    """Return the chosen sides; without any the model's largest, or its smallest in a quick run."""
    sides = subject.architecture.sides
    return chosen or (sides[:1] if quick else sides[-1:])


def _check(subject: Subject, batch_invariant: bool) -> dict[str, Any]:
    found = checked(subject, batch_invariant=batch_invariant)
    ulps = max(found["kernel_error_ulps"].values())
    console.print(f"{subject.name}: kernels within {ulps:.1f} ulps of their references; {found['batch_invariance']}")
    return found


def _finish(
    report: Report, device: torch.device, models: dict[str, Any], to_json: Path | None, to_markdown: Path | None
) -> None:
    report.metadata.update(machine_info(device) | {"models": models})
    write_reports([report], console, to_json, to_markdown)
