"""``python -m loadgen run`` and ``replay``: one load against a server."""

import math
from pathlib import Path
from typing import Annotated

import typer

from loadgen.commands import options
from loadgen.commands.measuring import Measuring, first_model, run_load
from loadgen.commands.trace import parse_window
from loadgen.runs.arrivals import Schedule
from loadgen.runs.posting import MASKS, Mix
from loadgen.runs.source import ModelSource
from loadgen.runs.target import Target
from loadgen.traces.formats import AUTO, read_records
from loadgen.traces.payloads import Asking
from loadgen.traces.record import Record
from loadgen.traces.scale import Scaling, scale
from loadgen.traffic import ClosedLoop, OpenLoop

OF_EACH_SLOT = 10  # requests of a closed loop, where nothing says how many
SIZES = ("1024x1024",)
TRACE_HELP = "A trace in any format; see `trace convert`."


def run(
    url: options.Url = options.DEFAULT_URL,
    out: options.Out = Path("load"),
    rate: Annotated[float | None, typer.Option(min=1e-6, help="Open loop: requests a second.")] = None,
    closed: Annotated[int | None, typer.Option(min=1, help="Closed loop: requests in flight.")] = None,
    trace: Annotated[Path | None, typer.Option(help=f"Requests, and times unless told. {TRACE_HELP}")] = None,
    requests: Annotated[int | None, typer.Option(min=1, help="How many; else --rate times --seconds.")] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of an open loop.")] = 60.0,
    arrivals: options.Arrivals = "poisson",
    window: options.Window = None,
    speedup: options.Speedup = 1.0,
    model: options.Models = None,
    size: options.Sizes = None,
    steps: options.Steps = None,
    adapter: options.Adapters = None,
    edit_share: options.EditShare = 0.0,
    inpaint_share: options.InpaintShare = 0.0,
    slo: options.Slo = None,
    send_deadline: options.SendDeadline = False,
    openai_only: options.OpenAIOnly = False,
    warm_up: options.WarmUp = 2,
    api_key: options.ApiKey = None,
    seed: options.Seed = 0,
    as_json: options.AsJson = False,
) -> None:
    """Put one load on a server: a closed loop, an open loop at a rate, or a trace."""
    told = options.told(url=url, rate=rate, closed=closed, trace=trace, arrivals=arrivals, slo=slo, seed=seed)
    mix = Mix(
        model or () if trace else (), adapter or (), (), "tryon", 20, edit_share, inpaint_share, False, openai_only
    )
    objectives, pattern = options.read_objectives(slo, send_deadline), options.read_pattern(arrivals)
    count = _count(rate, closed, requests, seconds, trace)
    measuring = Measuring(Target(url, api_key), objectives, mix, warm_up, seed, out, as_json)
    with measuring.bench() as bench:
        if trace is not None:
            records, due = read_trace(trace, window, speedup, rate, requests, seed)
        else:
            asked = first_model(model, bench), pattern, seed, size or SIZES, steps, adapter or ()
            records, due = ModelSource(*asked).load(count, rate or 1.0, 0)
        run_load(measuring, bench, records, ClosedLoop(len(records), closed) if closed else due, told)


def _count(rate: float | None, closed: int | None, requests: int | None, seconds: float, trace: Path | None) -> int:
    """Return how many requests a load has.  Raises BadParameter where nothing says how it is put on."""
    if (rate is not None) + (closed is not None) != 1 and (trace is None or closed is not None):
        raise typer.BadParameter("give either --rate or --closed, or a --trace", param_hint="--rate")
    if requests is not None:
        return requests
    return OF_EACH_SLOT * closed if closed is not None else max(1, math.ceil((rate or 0.0) * seconds))


def read_trace(
    path: Path, window: str | None, speedup: float, rate: float | None, limit: int | None, seed: int
) -> tuple[list[Record], OpenLoop]:
    """Return a trace's requests and when they are due.  Raises BadParameter, TraceError or ValueError."""
    seconds = parse_window(window) if window is not None else None
    records = read_records(path, AUTO, Asking(), seed)
    scaling = Scaling(window_s=seconds, speedup=speedup, rate_rps=rate)
    chosen = scale(records, scaling, seed)[:limit]
    return chosen, Schedule([record.at_s for record in chosen])


def replay(
    trace: Annotated[Path, typer.Argument(help=TRACE_HELP)],
    url: options.Url = options.DEFAULT_URL,
    out: options.Out = Path("replay"),
    rate: Annotated[float | None, typer.Option(min=1e-6, help="Speed up or slow down to so many a second.")] = None,
    speedup: options.Speedup = 1.0,
    window: options.Window = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many requests.")] = None,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", help="Stands for the trace's most popular model; several in turn. None: its own."),
    ] = None,
    adapter: options.Adapters = None,
    controlnet: options.Controlnets = None,
    masks: Annotated[str, typer.Option(help=f"How large masks are: {', '.join(MASKS)}.")] = "tryon",
    templates: Annotated[int, typer.Option(min=1, help="Images that edits choose from, by popularity.")] = 20,
    edit_share: options.EditShare = 0.0,
    inpaint_share: options.InpaintShare = 0.0,
    generations_only: Annotated[bool, typer.Option("--generations-only", help="Send edits as generations.")] = False,
    openai_only: options.OpenAIOnly = False,
    send_deadline: options.SendDeadline = False,
    slo: options.Slo = None,
    warm_up: options.WarmUp = 2,
    timeout: options.Timeout = 300.0,
    api_key: options.ApiKey = None,
    seed: options.Seed = 0,
    as_json: options.AsJson = False,
) -> None:
    """Send a trace's requests when they are due, with its mix of models, adapters, ControlNets and edits."""
    told = options.told(url=url, trace=trace, rate=rate, speedup=speedup, window=window, slo=slo, seed=seed)
    shares = edit_share, inpaint_share, generations_only
    mix = Mix(model or (), adapter or (), controlnet or (), options.read_masks(masks), templates, *shares,
              openai_only)  # fmt: skip
    objectives = options.read_objectives(slo, send_deadline)
    measuring = Measuring(Target(url, api_key, timeout), objectives, mix, warm_up, seed, out, as_json)
    with measuring.bench() as bench:
        run_load(measuring, bench, *read_trace(trace, window, speedup, rate, limit, seed), told)
