"""``lego-serve simulate TRACE --cluster C --policy P``: what a policy would make of a trace, without a cluster."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Column, Table

from lego_serve.cluster_files import read_cluster, read_trace
from lego_serve.errors import LegoError
from lego_serve.sim.cluster import Noise, Setting
from lego_serve.sim.policies.names import POLICIES, Division, policy_named
from lego_serve.sim.report import inputs, summary
from lego_serve.sim.run import Outcome, simulate
from lego_serve.sim.run_page import run_page
from lego_serve.sim.workload import Request, retimed

WINDOW_S = 30.0  # of the Gantt chart, from the start
console = Console(stderr=True)


@dataclass(frozen=True, slots=True)
class _World:
    """How the simulated world differs from what policies believe, and how our policy is divided."""

    noise: Noise
    seed: int
    division: Division


def run(
    trace: Annotated[Path, typer.Argument(help="JSON lines: `timestamp` in ms, `extra.workflow`, `extra.slo_ms`.")],
    cluster: Annotated[Path, typer.Option(help="A cluster file, such as configs/clusters/h800_8.yaml.")],
    policy: Annotated[list[str], typer.Option(help=f"One of {', '.join(POLICIES)}; repeat it to compare.")],
    rates: Annotated[str, typer.Option(help="Also at these requests a second, as in `2,3,4`.")] = "",
    gpus: Annotated[int | None, typer.Option(min=1, help="Instead of the file's.")] = None,
    slo_scale: Annotated[float | None, typer.Option(help="Instead of the file's; a trace's own limits stay.")] = None,
    cost_error: Annotated[float, typer.Option(min=0, help="How far calls stray from estimates, such as 0.1.")] = 0.0,
    hop_ms: Annotated[float, typer.Option(min=0, help="From a call's end until the policy hears of it.")] = 0.0,
    cells: Annotated[int, typer.Option(min=1, help="Of lego: parts of the cluster, each with a dispatcher.")] = 1,
    gateways: Annotated[int, typer.Option(min=1, help="Of lego: they route by reports.")] = 1,
    report_age: Annotated[float, typer.Option(min=0, help="Seconds that a report is old before the next.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of the errors.")] = 0,
    out: Annotated[Path | None, typer.Option("--json", help="Write the numbers to this file.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a report to this file.")] = None,
) -> None:
    """Simulate one or several policies on a trace; the same seed gives the same bytes."""
    setting = read_cluster(cluster).setting(gpus, slo_scale)
    requests = read_trace(trace, setting)
    if cells > setting.gpus:
        raise LegoError(f"--cells {cells}: the cluster has only {setting.gpus} GPUs")
    world = _World(Noise(cost_error, hop_ms / 1000.0), seed, Division(cells, gateways, report_age))
    runs, shown = _simulate(setting, requests, list(dict.fromkeys(policy)), [None, *_rates(rates)], world)
    _print(runs)
    report = {"inputs": dict(inputs(setting, requests)), "world": repr(world), "runs": runs}
    _write(out, json.dumps(report, indent=1, sort_keys=True) + "\n")
    _write(html, run_page(str(trace.name), setting, requests, runs, shown, WINDOW_S))


def _simulate(
    setting: Setting,
    requests: Sequence[Request],
    names: Sequence[str],
    rates: Sequence[float | None],
    world: _World,
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, Outcome]]:
    """Run each policy at the trace's own rate and at others; the numbers of all, and the runs at the trace's own."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    shown: dict[str, Outcome] = {}
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("simulating", total=len(names) * len(rates) * len(requests))
        for number, (name, rate) in enumerate((name, rate) for name in names for rate in rates):
            load = requests if rate is None else retimed(requests, rate)
            started, done = time.process_time(), number * len(requests)

            def advance(count: int, done: int = done) -> None:
                progress.update(task, completed=done + count)

            policy = policy_named(name, setting, _work_shares(load), world.division)
            outcome = simulate(
                setting, load, policy, noise=world.noise, seed=world.seed, window_s=WINDOW_S, progress=advance
            )
            console.log(f"{name}: {outcome.events} events in {time.process_time() - started:.1f} s of processor")
            runs[name].append({"rate": _rate(load), **summary(setting, load, outcome)})
            if rate is None:
                shown[name] = outcome
    return runs, shown


def _work_shares(requests: Sequence[Request]) -> Mapping[str, float]:
    """What baselines know beforehand: the part of each workflow in the trace."""
    shares: dict[str, float] = {}
    for each in requests:
        shares[each.workflow] = shares.get(each.workflow, 0.0) + each.scale
    return shares


def _rate(requests: Sequence[Request]) -> float:
    span_s = requests[-1].at_s - requests[0].at_s
    return (len(requests) - 1) / span_s if span_s else 0.0


def _rates(text: str) -> list[float]:
    try:
        rates = [float(word) for word in text.split(",") if word.strip()]
    except ValueError:
        rates = [0.0]
    if any(not 0 < rate < 1e9 for rate in rates):
        raise LegoError(f"--rates are numbers above 0 with commas between, not {text!r}")
    return rates


def _print(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    table = Table(
        *(
            Column(each, no_wrap=True)
            for each in ("policy", "rate", "in time", "bound", "mean s", "p99 s", "loads", "lost")
        )
    )
    for name, rows in runs.items():
        for row in rows:
            statuses = [str(row["statuses"].get(each, 0)) for each in ("rejected", "shed", "late")]
            latency = row["latency_s"]
            table.add_row(
                name,
                f"{row['rate']:.2f}",
                f"{row['attainment']:.1%}",
                f"{row['bound']['best batch']:.1%}",
                "-" if latency["mean"] is None else f"{latency['mean']:.2f}",
                f"{latency['p99']:.2f}",
                str(row["loads"]),
                ", ".join(statuses),
            )
    Console().print(table)


def _write(path: Path | None, text: str) -> None:
    if path is None:
        return
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise LegoError(f"{path}: cannot be written: {error.strerror}") from None
