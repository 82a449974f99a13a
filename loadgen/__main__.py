"""``python -m loadgen compare SUITE --out DIR [--quick]``."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from loadgen.addons.plan import ADDONS
from loadgen.addons.run import compare_addons
from loadgen.baselines.in_process import InProcessPipeline
from loadgen.children import ChildError
from loadgen.compare import Sides
from loadgen.compare import compare as run_suite
from loadgen.edits.plan import EDITS
from loadgen.edits.run import compare_edits
from loadgen.mixed.lego_layout import with_backbones
from loadgen.mixed.plan import MIXED, Layout
from loadgen.mixed.run import compare_mixed
from loadgen.mixed.sides import MixedSides, Start
from loadgen.package import shipped
from loadgen.server import lego_server, monolith
from loadgen.suites import SUITES, Suite
from loadgen.summary import NoImagesError

MAX_SEQUENCE_LENGTH = 0  # of the shipped family: no T5, no padding for it

NAMES = (*SUITES, MIXED.name, ADDONS.name, *EDITS)

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)


@app.callback()
def root() -> None:
    """Load tests and comparisons of a running lego_serve."""


@app.command()
def compare(
    suite: Annotated[str, typer.Argument(help=f"One of: {', '.join(NAMES)}.")],
    out: Annotated[Path, typer.Option(help="Folder for summary.json, report.html and the logs.")],
    quick: Annotated[bool, typer.Option(help="Measures less; ends within a quarter of an hour.")] = False,
    config: Annotated[Path, typer.Option(help="The server's configuration.")] = Path("configs/tiny.yaml"),
    weights: Annotated[
        Path | None,
        typer.Option(help="Folder the baseline loads, the same the configuration serves; shipped if not given."),
    ] = None,
) -> None:
    """Measure a baseline and lego-serve in turn on the same two cores with the same requests."""
    if suite not in NAMES:
        raise typer.BadParameter(f"no suite {suite!r}; there is {', '.join(NAMES)}", param_hint="SUITE")
    folder = weights or shipped("zoo", "weights", "lego-tiny")
    for path in (config, folder / "model_index.json"):
        if not path.is_file():
            raise typer.BadParameter(f"{path} is missing")
    console = Console()

    def tell(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    try:
        if suite == MIXED.name:
            found = compare_mixed(MIXED, _mixed_sides(folder, config, out), out, quick=quick, tell=tell)
        elif suite == ADDONS.name:
            found = compare_addons(folder, MAX_SEQUENCE_LENGTH, config, out, quick=quick, tell=tell)
        elif suite in EDITS:
            found = compare_edits(EDITS[suite], folder, MAX_SEQUENCE_LENGTH, config, out, quick=quick, tell=tell)
        else:
            chosen = SUITES[suite]
            found = run_suite(chosen, _sides(chosen, folder, config, out), out, quick=quick, tell=tell)
    except (ChildError, NoImagesError) as error:
        console.print(str(error), style="red", markup=False)
        raise typer.Exit(1) from None
    console.print(_table(found))
    console.print(f"{out / 'summary.json'}\n{out / 'report.html'}", highlight=False)


def _sides(suite: Suite, weights: Path, config: Path, out: Path) -> Sides:
    return Sides(
        baseline=lambda: InProcessPipeline(weights, MAX_SEQUENCE_LENGTH, out / "baseline.log"),
        server=lambda: lego_server(config, suite.model, out / "server.log"),
    )


def _mixed_sides(weights: Path, config: Path, out: Path) -> MixedSides:
    def baseline(layout: Layout, compiled: bool) -> Start:
        return monolith(
            weights,
            MAX_SEQUENCE_LENGTH,
            out / "baseline.log",
            replicas=layout.replicas,
            threads=layout.threads,
            compiled=compiled,
        )

    def lego(backbones: int | None) -> Start:
        chosen = config if backbones is None else with_backbones(config, MIXED.model, backbones, out)
        return lego_server(chosen, MIXED.model, out / "server.log")

    return MixedSides(baseline, lego)


def _table(found: dict[str, object]) -> Table:
    baseline, lego = found["baseline"], found["lego"]
    assert isinstance(baseline, dict)
    assert isinstance(lego, dict)
    table = Table("", str(baseline["name"]), "lego_serve", title=f"ratios, lego over baseline: {found['ratio']}")
    for key in baseline:
        if key != "name" and baseline[key] is not None and lego[key] is not None:
            table.add_row(key, f"{baseline[key]:.3f}", f"{lego[key]:.3f}")
    return table


if __name__ == "__main__":
    app()
