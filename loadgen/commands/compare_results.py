"""``python -m loadgen diff A B`` and ``report``: what results say, alone and beside each other."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import rich.table
import typer
from rich.console import Console

from loadgen.commands import options
from loadgen.commands.failing import WORSE, bad_input_ends
from loadgen.runs.diff import NAMES, Difference, compare_limits, compare_runs
from loadgen.runs.limit import Trial
from loadgen.runs.report import Result, read_result, write_reports
from loadgen.runs.tables import number

GATED = ("attainment", "failures", "mean", "p95", "limit")


def diff(
    a: Annotated[Path, typer.Argument(help="Result folder of the one to compare with.")],
    b: Annotated[Path, typer.Argument(help="Result folder of the one in question.")],
    tolerance: Annotated[
        float, typer.Option(min=0.0, help="Change that does not matter: 0.05 is 5 % or points.")
    ] = 0.05,
    gate: Annotated[
        list[str] | None, typer.Option("--gate", help=f"Metrics that may not be worse: {', '.join((*NAMES, 'limit'))}.")
    ] = None,
    seed: options.Seed = 0,
    as_json: options.AsJson = False,
) -> None:
    """Compare two runs, or two sweeps, with bootstrap intervals; exit code 1 where B is worse than A."""
    for name in gate or ():
        if name not in (*NAMES, "limit"):
            raise typer.BadParameter(
                f"no metric {name!r}; there is {', '.join((*NAMES, 'limit'))}", param_hint="--gate"
            )
    with bad_input_ends():
        before, after = read_result(a), read_result(b)
        found, is_paired = _differences(before, after, tolerance, seed)
    worse = [each.metric for each in found if each.verdict == "worse" and each.metric in (gate or GATED)]
    if as_json:
        document = {"paired": is_paired, "worse": worse, "metrics": [dataclasses.asdict(each) for each in found]}
        typer.echo(json.dumps(document, indent=2))
    else:
        _show(found, is_paired)
    if worse:
        raise typer.Exit(WORSE)


def _differences(before: Result, after: Result, tolerance: float, seed: int) -> tuple[list[Difference], bool]:
    """Return the differences, and whether they were measured request by request.  Raises ValueError."""
    if before.is_sweep != after.is_sweep:
        raise ValueError(f"one of {before.name} and {after.name} is a run and the other a sweep")
    is_paired = bool(before.config.get("workload")) and before.config.get("workload") == after.config.get("workload")
    if before.is_sweep:
        if before.summary["target"] != after.summary["target"]:
            raise ValueError(
                f"the sweeps have different targets: {before.summary['target']} and {after.summary['target']}"
            )
        rng = np.random.default_rng(seed)
        return [compare_limits(_trials(before), _trials(after), before.summary["target"], tolerance, rng)], False
    for result in (before, after):
        if not result.outcomes:
            raise ValueError(f"{result.name} has no requests.jsonl")
    return compare_runs(before.outcomes, after.outcomes, tolerance, seed, is_paired=is_paired), is_paired


def _trials(result: Result) -> Sequence[Trial]:
    return [
        Trial(float(each["rate_rps"]), int(each["repeat"]), [met == "1" for met in each["met"]])
        for each in result.summary["trials"]
    ]


def _show(found: Sequence[Difference], is_paired: bool) -> None:
    title = "request by request" if is_paired else "different requests or times: compared as a whole"
    table = rich.table.Table("", "A", "B", "B against A", "95 % interval", "", title=title, title_justify="left")
    for each in found:
        change, low, high = (f"{value:+.1%}" for value in (each.change, each.low, each.high))
        table.add_row(each.metric, number(each.a), number(each.b), change, f"{low} to {high}", each.verdict)
    Console().print(table)


def report(
    results: Annotated[list[Path], typer.Argument(help="Result folders of runs and sweeps.")],
    out: options.Out = Path("report"),
) -> None:
    """Write one report.html and report.md of several results, which the page shows together."""
    with bad_input_ends():
        write_reports(out, [read_result(folder) for folder in results])
    Console().print(f"{out / 'report.html'}\n{out / 'report.md'}", highlight=False, soft_wrap=True)
