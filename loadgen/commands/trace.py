"""``python -m loadgen trace convert|synth|stats|scale``."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from loadgen.commands.failing import bad_input_ends
from loadgen.traces.formats import AUTO, FORMATS, read_records
from loadgen.traces.payloads import Asking, to_records
from loadgen.traces.profiles import PROFILES
from loadgen.traces.record import Record, write_native
from loadgen.traces.scale import Scaling, scale
from loadgen.traces.statistics import describe
from loadgen.traces.synth import synthesise

trace = typer.Typer(help="Read, make, describe and change traces of requests.", no_args_is_help=True)

Source = Annotated[Path, typer.Argument(help="The trace's file; may end in .gz.")]
Out = Annotated[Path, typer.Argument(help="The file to write, one JSON object a line.")]
Format = Annotated[str, typer.Option("--format", help=f"One of: {', '.join(FORMATS)}.")]
Models = Annotated[
    list[str] | None,
    typer.Option("--model", help="Model to ask for; several stand for the most popular workflows in turn."),
]
Workflows = Annotated[
    list[str] | None,
    typer.Option("--workflow", help="Workflow of a simulated cluster; several in turn. None: its own."),
]
Adapters = Annotated[list[str] | None, typer.Option("--adapter", help="Adapter the server has; several in turn.")]
Size = Annotated[str, typer.Option(help="Size of every image.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Steps where the trace says nothing.")]
ForceSteps = Annotated[bool, typer.Option(help="Ask for --steps in every request.")]
SloScale = Annotated[float, typer.Option(min=0.0, help="Objective over the seconds alone that the trace tells.")]
SloMs = Annotated[float | None, typer.Option(min=1.0, help="Objective of requests without such seconds.")]
Seed = Annotated[int, typer.Option(help="Seed of everything drawn.")]


def read_format(name: str) -> str:
    """Return a format's name.  Raises BadParameter for an unknown one."""
    if name not in FORMATS:
        raise typer.BadParameter(f"no format {name!r}; there is {', '.join(FORMATS)}", param_hint="--format")
    return name


def parse_window(text: str) -> tuple[float, float]:
    """Return the seconds of a window such as ``50000:50120``; either side may be empty.  Raises BadParameter."""
    low, colon, high = text.partition(":")
    try:
        window = float(low or 0), float(high or "inf")
    except ValueError:
        colon = ""
    if not colon or not 0 <= window[0] < window[1]:
        raise typer.BadParameter(f"{text!r} is no window of seconds such as 600:1200", param_hint="--window")
    return window


@trace.command()
def convert(
    source: Source,
    out: Out,
    format: Format = AUTO,
    model: Models = None,
    workflow: Workflows = None,
    adapter: Adapters = None,
    size: Size = "1024x1024",
    steps: Steps = None,
    force_steps: ForceSteps = False,
    slo_scale: SloScale = 2.0,
    slo_ms: SloMs = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many requests.")] = None,
    seed: Seed = 0,
) -> None:
    """Write a published trace as one that this tool and NVIDIA's aiperf replay."""
    asking = _asking(model, workflow, adapter, size, steps, force_steps, slo_scale, slo_ms)
    with bad_input_ends():
        records = itertools.islice(read_records(source, read_format(format), asking, seed), limit)
        _report(out, write_native(out, records))


@trace.command()
def synth(
    name: Annotated[str, typer.Argument(help=f"The trace to follow: {', '.join(PROFILES)}.")],
    out: Out,
    requests: Annotated[int | None, typer.Option(min=2, help="As many as the original unless given.")] = None,
    rate: Annotated[
        float | None, typer.Option(min=1e-9, help="Requests a second; the original's unless given.")
    ] = None,
    model: Models = None,
    workflow: Workflows = None,
    adapter: Adapters = None,
    size: Size = "1024x1024",
    steps: Steps = None,
    force_steps: ForceSteps = False,
    slo_scale: SloScale = 2.0,
    slo_ms: SloMs = None,
    seed: Seed = 0,
) -> None:
    """Make a trace with the statistics of a published one, which need not be at hand."""
    if name not in PROFILES:
        raise typer.BadParameter(f"no trace {name!r}; there is {', '.join(PROFILES)}", param_hint="NAME")
    asking = _asking(model, workflow, adapter, size, steps, force_steps, slo_scale, slo_ms)
    profile = PROFILES[name]
    with bad_input_ends():
        arrivals = synthesise(profile, requests or profile.requests, rate, seed)
        _report(out, write_native(out, to_records(arrivals, asking, seed)))
    Console().print(f"follows: {profile.faithful}\nassumed: {profile.assumed}", highlight=False, soft_wrap=True)


@trace.command()
def stats(
    source: Source,
    format: Format = AUTO,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Describe a trace: rate, how uneven its arrivals are, and what is asked for how often."""
    with bad_input_ends():
        found = describe(read_records(source, read_format(format), Asking(), 0))
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    table = Table(title=str(source), show_header=False)
    for name, value in _flat(found):
        table.add_row(name, value)
    Console().print(table)


@trace.command(name="scale")
def scale_command(
    source: Source,
    out: Out,
    format: Format = AUTO,
    window: Annotated[str | None, typer.Option(help="Seconds to keep, such as 600:1200.")] = None,
    fold: Annotated[float | None, typer.Option(min=1e-3, help="Lay spans of so many seconds over each other.")] = None,
    repeat: Annotated[int, typer.Option(min=1, help="Append the trace to itself.")] = 1,
    keep: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of the requests to keep, at random.")] = 1.0,
    speedup: Annotated[float, typer.Option(min=1e-9, help="Divide all times by this.")] = 1.0,
    rate: Annotated[float | None, typer.Option(min=1e-9, help="Speed up or slow down to so many a second.")] = None,
    seed: Seed = 0,
) -> None:
    """Change a trace, in this order: window, fold, repeat, keep, then speed-up or rate."""
    seconds = parse_window(window) if window is not None else None
    with bad_input_ends():
        records = read_records(source, read_format(format), Asking(), seed)
        changed: Sequence[Record] = scale(records, Scaling(seconds, fold, repeat, keep, speedup, rate), seed)
        _report(out, write_native(out, changed))


def _asking(
    model: list[str] | None,
    workflow: list[str] | None,
    adapter: list[str] | None,
    size: str,
    steps: int | None,
    force_steps: bool,
    slo_scale: float,
    slo_ms: float | None,
) -> Asking:
    if force_steps and steps is None:
        raise typer.BadParameter("give the number of steps by --steps", param_hint="--force-steps")
    return Asking(model or (), adapter or (), size, steps, force_steps, slo_scale or None, slo_ms, workflow or ())


def _report(out: Path, count: int) -> None:
    Console().print(f"{out}: {count} requests", highlight=False, soft_wrap=True)


def _flat(found: object, prefix: str = "") -> list[tuple[str, str]]:
    """Return the leaves of nested statistics, each with its path."""
    if isinstance(found, dict):
        return [row for name, value in found.items() for row in _flat(value, f"{prefix} {name}".strip())]
    return [(prefix, str(found))]
