"""``python -m loadgen compare SUITE --out DIR [--quick]``."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from loadgen.addons.plan import ADDONS
from loadgen.addons.run import compare_addons
from loadgen.baselines.in_process import InProcessPipeline
from loadgen.bursts.plan import SUITES, Suite
from loadgen.bursts.run import Systems, compare_bursts
from loadgen.children import ChildError
from loadgen.edits.plan import EDITS
from loadgen.edits.run import compare_edits
from loadgen.goodput.plan import GOODPUT, GoodputSuite
from loadgen.goodput.run import GoodputSystems, compare_goodput
from loadgen.mixed.plan import MIXED, Layout
from loadgen.mixed.run import compare_mixed
from loadgen.mixed.systems import MixedSystems, SystemFiles, http_systems
from loadgen.package import package_path
from loadgen.progress import OnLine
from loadgen.server import HttpServer, lego_server, monolith
from loadgen.server_config import with_backbones, with_workflows
from loadgen.summary import NoImagesError
from loadgen.tiers.plan import TIERS
from loadgen.tiers.run import compare_tiers

MAX_SEQUENCE_LENGTH = 0  # the shipped family has no T5, so no padding for it

NAMES = (*SUITES, MIXED.name, *TIERS, ADDONS.name, *EDITS, *GOODPUT)


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
    folder = weights or package_path("zoo", "weights", "lego-tiny")
    for path in (config, folder / "model_index.json"):
        if not path.is_file():
            raise typer.BadParameter(f"{path} is missing")
    console = Console()

    def on_line(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    try:
        summary = _run(suite, folder, config, out, quick=quick, on_line=on_line)
    except (ChildError, NoImagesError) as error:
        console.print(str(error), style="red", markup=False)
        raise typer.Exit(1) from None
    console.print(_goodput_table(summary) if suite in GOODPUT else _table(summary))
    console.print(f"{out / 'summary.json'}\n{out / 'report.html'}", highlight=False)


def _run(suite: str, weights: Path, config: Path, out: Path, *, quick: bool, on_line: OnLine) -> dict[str, object]:
    """Run a suite and return its summary."""
    if suite == MIXED.name:
        return compare_mixed(MIXED, mixed_systems(weights, config, out), out, quick=quick, on_line=on_line)
    if suite in TIERS:
        systems = mixed_systems(weights, config, out)
        return compare_tiers(TIERS[suite], systems, out, quick=quick, on_line=on_line)
    if suite == ADDONS.name:
        return compare_addons(weights, MAX_SEQUENCE_LENGTH, config, out, quick=quick, on_line=on_line)
    if suite in EDITS:
        return compare_edits(EDITS[suite], weights, MAX_SEQUENCE_LENGTH, config, out, quick=quick, on_line=on_line)
    if suite in GOODPUT:
        both = goodput_systems(GOODPUT[suite], weights, config, out)
        return compare_goodput(GOODPUT[suite], both, out, quick=quick, on_line=on_line)
    bursts = SUITES[suite]
    return compare_bursts(bursts, _burst_systems(bursts, weights, config, out), out, quick=quick, on_line=on_line)


def _burst_systems(suite: Suite, weights: Path, config: Path, out: Path) -> Systems:
    return Systems(
        baseline=lambda: InProcessPipeline(weights, MAX_SEQUENCE_LENGTH, out / "baseline.log"),
        server=lambda: lego_server(config, suite.model, out / "server.log"),
    )


def mixed_systems(weights: Path, config: Path, out: Path) -> MixedSystems:
    """Return both systems of suite ``mixed`` as processes that log into ``out``."""
    files = SystemFiles(MIXED.model, weights, MAX_SEQUENCE_LENGTH, out)
    return http_systems(files, lambda backbones: with_backbones(config, MIXED.model, backbones, out))


def goodput_systems(suite: GoodputSuite, weights: Path, config: Path, out: Path) -> GoodputSystems:
    """Return both systems of a suite of goodput as processes that log into ``out``."""

    def baseline(layout: Layout) -> HttpServer:
        return monolith(
            weights,
            MAX_SEQUENCE_LENGTH,
            out / "baseline.log",
            replicas=layout.replicas,
            threads=layout.threads,
            compiled=False,
            workflows=suite.workflows,
        )

    derived = with_workflows(config, suite.model, suite.workflows, out)
    return GoodputSystems(baseline, lambda: lego_server(derived, suite.model, out / "server.log"))


def _goodput_table(summary: dict[str, object]) -> Table:
    baseline, lego, ratio = (summary[name] for name in ("baseline", "lego", "ratio"))
    assert isinstance(baseline, dict)
    assert isinstance(lego, dict)
    table = Table("offered, 1/s", str(baseline["name"]), "lego_serve", title=f"ratios, lego over baseline: {ratio}")
    for below, above in zip(baseline["loads"], lego["loads"], strict=True):
        cells = [f"{each['attainment']:.1%} in time, {each['refused']} refused" for each in (below, above)]
        table.add_row(f"{below['rate_rps']:.2f}", *cells)
    return table


def _table(summary: dict[str, object]) -> Table:
    baseline, lego = summary["baseline"], summary["lego"]
    assert isinstance(baseline, dict)
    assert isinstance(lego, dict)
    table = Table("", str(baseline["name"]), "lego_serve", title=f"ratios, lego over baseline: {summary['ratio']}")
    for key in baseline:
        if key != "name" and baseline[key] is not None and lego[key] is not None:
            table.add_row(key, f"{baseline[key]:.3f}", f"{lego[key]:.3f}")
    return table
