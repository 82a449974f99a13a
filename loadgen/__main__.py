"""``python -m loadgen compare SUITE --out DIR [--quick]``."""

from importlib import util
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from loadgen.baselines.in_process import InProcessPipeline
from loadgen.children import ChildError
from loadgen.compare import Sides
from loadgen.compare import compare as run_suite
from loadgen.server import LegoServer
from loadgen.suites import SUITES
from loadgen.summary import NoPicturesError

SHIPPED_WEIGHTS = Path("zoo", "weights", "lego-tiny")
MAX_SEQUENCE_LENGTH = 0  # of the shipped family: no T5, no padding for it

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)


@app.callback()
def root() -> None:
    """Load tests and comparisons of a running lego_serve."""


@app.command()
def compare(
    suite: Annotated[str, typer.Argument(help=f"One of: {', '.join(SUITES)}.")],
    out: Annotated[Path, typer.Option(help="Folder for summary.json, report.html and the logs.")],
    quick: Annotated[bool, typer.Option(help="Fewer bursts a round; ends within ten minutes.")] = False,
    config: Annotated[Path, typer.Option(help="The server's configuration.")] = Path("configs/tiny.yaml"),
    weights: Annotated[
        Path | None,
        typer.Option(help="Folder the baseline loads, the same the configuration serves; shipped if not given."),
    ] = None,
) -> None:
    """Measure a baseline and lego-serve in turn on the same two cores with the same requests."""
    if suite not in SUITES:
        raise typer.BadParameter(f"no suite {suite!r}; there is {', '.join(SUITES)}", param_hint="SUITE")
    folder = weights or _shipped_weights()
    for path in (config, folder / "model_index.json"):
        if not path.is_file():
            raise typer.BadParameter(f"{path} is missing")
    chosen = SUITES[suite]
    sides = Sides(
        baseline=lambda: InProcessPipeline(folder, MAX_SEQUENCE_LENGTH, out / "baseline.log"),
        server=lambda: LegoServer(config, chosen.model, out / "server.log"),
    )
    console = Console()
    try:
        found = run_suite(chosen, sides, out, quick=quick, tell=lambda line: console.print(line, highlight=False))
    except (ChildError, NoPicturesError) as error:
        console.print(str(error), style="red", markup=False)
        raise typer.Exit(1) from None
    console.print(_table(found))
    console.print(f"{out / 'summary.json'}\n{out / 'report.html'}", highlight=False)


def _shipped_weights() -> Path:
    """Where the package ``lego_serve`` keeps its weights; looked up on disk, not imported."""
    spec = util.find_spec("lego_serve")
    roots = list(spec.submodule_search_locations or ()) if spec is not None else []
    return Path(roots[0] if roots else "lego_serve") / SHIPPED_WEIGHTS


def _table(found: dict[str, object]) -> Table:
    baseline, lego = found["baseline"], found["lego"]
    assert isinstance(baseline, dict)
    assert isinstance(lego, dict)
    table = Table("", str(baseline["name"]), "lego_serve", title=f"ratios, lego over baseline: {found['ratio']}")
    for key in baseline:
        if key != "name" and baseline[key] is not None:
            table.add_row(key, f"{baseline[key]:.3f}", f"{lego[key]:.3f}")
    return table


if __name__ == "__main__":
    app()
