"""Options that several commands have, and the values that they become."""

from pathlib import Path
from typing import Annotated

import typer

from loadgen.runs.arrivals import CONSTANT, GAMMA, ON_OFF, POISSON, Pattern
from loadgen.runs.posting import MASKS
from loadgen.runs.session import Objectives

Url = Annotated[str, typer.Option(help="Where the server listens, without /v1.")]
Models = Annotated[
    list[str] | None, typer.Option("--model", help="A model of the server; several in turn. None: its first.")
]
Sizes = Annotated[list[str] | None, typer.Option("--size", help="Size of the images; several equally often.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Steps to ask for; the server's own number unless given.")]
Adapters = Annotated[list[str] | None, typer.Option("--adapter", help="An adapter of the server; several in turn.")]
Controlnets = Annotated[list[str] | None, typer.Option("--controlnet", help="A ControlNet; several in turn.")]
EditShare = Annotated[float, typer.Option(min=0.0, max=1.0, help="Share that edits an image without a mask.")]
InpaintShare = Annotated[float, typer.Option(min=0.0, max=1.0, help="Share that edits an image within a mask.")]
OpenAIOnly = Annotated[bool, typer.Option("--openai-only", help="Leave out fields that OpenAI does not have.")]
SendDeadline = Annotated[bool, typer.Option("--send-deadline", help="Tell the server each objective as deadline_ms.")]
Slo = Annotated[
    str | None, typer.Option(help="Objective instead of the trace's: 2500ms, 2.5s, or 5x the seconds alone.")
]
Arrivals = Annotated[str, typer.Option(help="poisson, constant, gamma:CV, or onoff:SECONDS_ON:SECONDS_OFF.")]
Window = Annotated[str | None, typer.Option(help="Seconds of the trace to take, such as 600:1200.")]
Speedup = Annotated[float, typer.Option(min=1e-9, help="Divide the trace's times by this.")]
WarmUp = Annotated[int, typer.Option(min=0, help="Requests sent one by one before anything is timed.")]
ApiKey = Annotated[str | None, typer.Option(envvar="OPENAI_API_KEY", help="Key sent as a bearer token.")]
Timeout = Annotated[float, typer.Option(min=0.1, help="Seconds until a request is given up.")]
Seed = Annotated[int, typer.Option(help="Seed of everything drawn.")]
Out = Annotated[Path, typer.Option(help="Folder for the result and its reports.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")]

DEFAULT_URL = "http://127.0.0.1:8000"
SUFFIXES = (("ms", 1.0), ("x", None), ("s", 1000.0))


def read_pattern(text: str) -> Pattern:
    """Return the arrivals that an option names.  Raises BadParameter."""
    kind, *numbers = text.split(":")
    try:
        values = [float(number) for number in numbers]
    except ValueError:
        values = [-1.0]
    if all(value > 0 for value in values):
        match kind, values:
            case (("poisson" | "constant"), []):
                return Pattern(POISSON if kind == "poisson" else CONSTANT)
            case "gamma", [cv] if 0.01 <= cv <= 50:
                return Pattern(GAMMA, cv=cv)
            case "onoff", [on_s, off_s]:
                return Pattern(ON_OFF, on_s=on_s, off_s=off_s)
    known = "poisson, constant, gamma:CV (0.01 to 50), or onoff:SECONDS_ON:SECONDS_OFF"
    raise typer.BadParameter(f"no arrivals {text!r}; there is {known}", param_hint="--arrivals")


def read_objectives(text: str | None, is_sent: bool = False) -> Objectives:
    """Return the objectives that an option gives.  Raises BadParameter."""
    if text is None:
        return Objectives(is_sent=is_sent)
    for suffix, factor in SUFFIXES:
        if text.endswith(suffix):
            try:
                value = float(text.removesuffix(suffix))
            except ValueError:
                break
            if 0 < value < 1e9:
                return Objectives(None, value, is_sent) if factor is None else Objectives(value * factor, None, is_sent)
    raise typer.BadParameter(f"{text!r} is no objective such as 2500ms, 2.5s or 5x", param_hint="--slo")


def read_masks(name: str) -> str:
    """Return the name of a sample of masks.  Raises BadParameter for an unknown one."""
    if name not in MASKS:
        raise typer.BadParameter(f"no masks {name!r}; there is {', '.join(MASKS)}", param_hint="--masks")
    return name


def told(**values: object) -> dict[str, object]:
    """Return options as a result's configuration holds them."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
