"""``python -m loadgen sweep``: the highest rate at which enough requests meet their objective."""

import dataclasses
import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from loadgen.commands import options
from loadgen.commands.measuring import Measuring, first_model
from loadgen.commands.run import SIZES, TRACE_HELP, read_trace
from loadgen.machine import busy_share
from loadgen.mixed.plan import SearchPlan
from loadgen.runs.folder import SWEEP, digest
from loadgen.runs.outcome import Outcome
from loadgen.runs.posting import Mix
from loadgen.runs.source import ModelSource, Source, TraceSource
from loadgen.runs.sweep import Gate, NotJudgedError, SweepPlan
from loadgen.runs.sweep import sweep as search_limit
from loadgen.runs.target import Bench, Target

STEP = 1.35
MOST_PROBES = 16
FEWEST = 100  # requests of a trial
LOOK_S = 1.0
WAIT_S = 30.0  # for a machine that is busy to become idle


def sweep(
    url: options.Url = options.DEFAULT_URL,
    out: options.Out = Path("sweep"),
    slo: options.Slo = None,
    target: Annotated[float, typer.Option(min=0.01, max=0.999, help="Share to answer within the objective.")] = 0.9,
    start: Annotated[float, typer.Option(min=1e-6, help="Rate to try first.")] = 1.0,
    resolution: Annotated[float, typer.Option(min=1.005, help="End where the bracket's rates differ by less.")] = 1.05,
    repeats: Annotated[int, typer.Option(min=1, help="Trials of each rate near the limit.")] = 3,
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of a trial.")] = 120.0,
    budget: Annotated[float, typer.Option(min=1.0, help="Seconds after which no other rate is tried.")] = 3600.0,
    require_idle: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Judge nothing where more of the machine's cores is busy.")
    ] = None,
    arrivals: options.Arrivals = "poisson",
    trace: Annotated[Path | None, typer.Option(help=f"Requests and their pattern. {TRACE_HELP}")] = None,
    model: options.Models = None,
    size: options.Sizes = None,
    steps: options.Steps = None,
    adapter: options.Adapters = None,
    controlnet: options.Controlnets = None,
    openai_only: options.OpenAIOnly = False,
    warm_up: options.WarmUp = 2,
    api_key: options.ApiKey = None,
    seed: options.Seed = 0,
    as_json: options.AsJson = False,
) -> None:
    """Bracket and bisect to the highest rate, repeat near it, and give its confidence interval."""
    told = options.told(url=url, slo=slo, target=target, arrivals=arrivals, trace=trace, seed=seed, repeats=repeats)
    names = (model or () if trace else (), adapter or (), controlnet or ())
    objectives, pattern = options.read_objectives(slo), options.read_pattern(arrivals)
    mix = Mix(*names, openai_only=openai_only)
    measuring = Measuring(Target(url, api_key), objectives, mix, warm_up, seed, out, as_json)
    bracket = SearchPlan(STEP, resolution, budget, MOST_PROBES)
    plan = SweepPlan(target, start, repeats, seconds, FEWEST, bracket, require_idle is not None)
    with measuring.bench() as bench:
        if trace is not None:
            source: Source = TraceSource(read_trace(trace, None, 1.0, None, None, seed)[0], repeats)
        else:
            source = ModelSource(first_model(model, bench), pattern, seed, size or SIZES, steps, *names[1:])
        _measure(measuring, bench, source, plan, _gate(require_idle), told)


def _measure(
    measuring: Measuring, bench: Bench, source: Source, plan: SweepPlan, gate: Gate, told: dict[str, object]
) -> None:
    """Search the limit and write the result.  Raises ValueError where requests have no objective."""
    records, _ = source.load(plan.count(plan.start_rps), plan.start_rps, 0)
    if not measuring.objectives.is_known and any(record.milliseconds("slo_ms") is None for record in records):
        raise ValueError("a sweep needs an objective for every request: give --slo, such as --slo 5x")
    bench.warm_up(measuring.post(records[: measuring.warm_up]))

    takes = itertools.count(1)

    def attempt(rate_rps: float, count: int, repeat: int) -> Sequence[Outcome]:
        requests, arrivals = source.load(count, rate_rps, repeat, next(takes))
        return bench.run(measuring.post(requests), arrivals, f"{measuring.seed}/{repeat}/arrivals")

    found = search_limit(attempt, plan, time.monotonic, measuring.say, gate)
    summary: dict[str, object] = {
        "kind": SWEEP,
        "target": plan.target,
        "limit": dataclasses.asdict(found.limit),
        "trials": [
            {**numbers, "met": "".join("01"[met] for met in trial.met)}
            for trial, numbers in zip(found.trials, found.numbers, strict=True)
        ],
        "solo_s": bench.solo_s,
    }
    measuring.finish(SWEEP, told, digest(records, ()), summary)


def _gate(most_busy: float | None) -> Gate:
    """Return what waits a while for the machine to become idle; it gives up with NotJudgedError."""

    def wait_for_idle() -> None:
        if most_busy is None:
            return
        deadline = time.monotonic() + WAIT_S
        while (busy := busy_share(LOOK_S)) > most_busy:
            if time.monotonic() > deadline:
                raise NotJudgedError(
                    f"{busy:.0%} of this machine's cores is busy with something else, more than the {most_busy:.0%}"
                    " allowed: nothing is judged"
                )

    return wait_for_idle
