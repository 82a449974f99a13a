"""The tables of docs/benchmarks/cluster.md: ``python -m benchmarks.simulator [TABLE ...] [--quick]``.

Everything is simulated: no GPU, no server.  The same code gives the same numbers, but for the table of speed.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markdown import Markdown

from benchmarks.simulator import bursts, gentd, many_models, published_results, rates, recorded, scale
from benchmarks.simulator.loads import artifact, pattern, zoo
from benchmarks.simulator.many_models import zoo_load
from benchmarks.simulator.tables import Kept, Result
from lego_serve.sim.charts import gantt
from lego_serve.sim.page import Section, page, table
from lego_serve.sim.policies.names import policy_named
from lego_serve.sim.run import simulate
from lego_serve.sim.run_page import residency

Make = Callable[..., Result]
TABLES: dict[str, Make] = {
    "theory": published_results.theory,
    "recorded": recorded.table,
    "artifact": published_results.table,
    "rates": rates.table,
    "never-below": rates.never_below,
    "slos": rates.other_slos,
    "ablation": rates.ablation,
    "sensitivity": rates.sensitivity,
    "bursts": bursts.table,
    "gpus": bursts.gpus,
    "autoscaling": bursts.autoscaling,
    "overload": bursts.overload,
    "zoo": many_models.table,
    "gentd": gentd.table,
    "gateways": scale.gateways,
    "speed": scale.speed,
}
console = Console()


def main(
    names: Annotated[list[str] | None, typer.Argument(metavar=f"[{'|'.join(TABLES)}]...")] = None,
    quick: Annotated[bool, typer.Option(help="Fewer traces and requests: the form that tests run.")] = False,
    keep: Annotated[Path | None, typer.Option(help="A folder for numbers, reused while the code is the same.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the tables to this file.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a report with charts to this file.")] = None,
    out: Annotated[Path | None, typer.Option("--json", help="Write the numbers to this file.")] = None,
) -> None:
    """Make all tables, or those named."""
    unknown = [name for name in names or () if name not in TABLES]
    if unknown:
        raise typer.BadParameter(f"there is no table {unknown[0]}; there is {', '.join(TABLES)}")
    kept = Kept(keep)
    results: dict[str, Result] = {}
    for name in names or TABLES:
        started = time.process_time()
        results[name] = TABLES[name](kept, quick=quick)
        console.print(Markdown(results[name].markdown()))
        console.print(f"{name}: {time.process_time() - started:.0f} s of processor")
        if markdown is not None:
            markdown.write_text("\n".join(each.markdown() for each in results.values()))
    if out is not None:
        values = {
            name: {"head": each.head, "rows": each.rows, "verdicts": each.verdicts} for name, each in results.items()
        }
        out.write_text(json.dumps(values, indent=1, default=str) + "\n")
    if html is not None:
        html.write_text(_report(results))


def _report(results: dict[str, Result]) -> str:
    sections = [Section(title, words, svg) for each in results.values() for title, words, svg in each.charts]
    setting = artifact()
    requests = pattern(setting, "6.0")
    for name in ("diflow", "lego"):
        outcome = simulate(setting, requests, policy_named(name, setting), window_s=30.0)
        words = "DiFlow's trace at rate scale 6, the first half minute."
        sections.append(Section(f"GPUs under {name}", words, gantt(outcome.spans, setting.gpus, 0.0, 30.0)))
    cluster = zoo()
    outcome = simulate(cluster, zoo_load(cluster, 5, 600), policy_named("lego", cluster), window_s=150.0)
    sections.append(
        Section("Models under lego", "Eighteen workflows, from empty GPUs.", residency(outcome.residences, 150.0))
    )
    sections += [Section(each.title, each.words, table(each.head, each.rows)) for each in results.values()]
    words = "Everything here is simulated on a published profile; see docs/benchmarks/cluster.md."
    return page("The cluster's brain, simulated", words, sections)


if __name__ == "__main__":
    typer.run(main)
