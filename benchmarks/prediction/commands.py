"""The commands: each ends with one line where its input is bad."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import rich.table
import typer
from rich.console import Console

from benchmarks.prediction import comparison
from benchmarks.prediction.calibrate import Calibration, plan
from benchmarks.prediction.committed import committed_at
from benchmarks.prediction.comparison import NotBlindError, Row, check_blind
from benchmarks.prediction.costs import TEXT_ROWS, Profile, read_profile, write_profile
from benchmarks.prediction.documents import (
    Prediction,
    Run,
    digest_of,
    read_prediction,
    read_run,
    write_prediction,
    write_run,
)
from benchmarks.prediction.fitting import fit_profile
from benchmarks.prediction.observation import Observation
from benchmarks.prediction.observe import Watch, observe_goodput, observe_mixed
from benchmarks.prediction.recording import read_recording, write_recording
from benchmarks.prediction.suites import SEED, SUITES
from benchmarks.prediction.systems.lego import ServerLayout
from benchmarks.prediction.systems.simulation import Simulation, SuiteStore
from lego_serve.core.suggest import did_you_mean
from lego_serve.errors import ConfigError
from loadgen.addons.plan import ADDONS
from loadgen.addons.run import addons_systems, prepare_addons
from loadgen.children import ChildError
from loadgen.commands.compare import MAX_SEQUENCE_LENGTH, goodput_systems, mixed_systems
from loadgen.goodput.plan import GoodputSuite
from loadgen.machine import CORES, describe_commit, describe_run, pin
from loadgen.mixed.hooks import SuiteHooks
from loadgen.mixed.plan import MIXED, Layout, MixedSuite
from loadgen.mixed.workload import Workload
from loadgen.package import package_path
from loadgen.server import lego_server, monolith
from loadgen.summary import NoImagesError

console = Console(width=160)
Config = Annotated[Path, typer.Option(help="The server's configuration.")]
Quick = Annotated[bool, typer.Option(help="Measures less: the suites' quick form.")]
Pool = Annotated[Path | None, typer.Option(help="Folder of the add-ons of suite addons, derived there if missing.")]
LAYOUTS = (*MIXED.layouts, Layout(1, 1))  # of all suites


@contextmanager
def _bad_input_ends() -> Iterator[None]:
    try:
        yield
    except (ConfigError, ChildError, NoImagesError, ValueError) as error:
        console.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(2) from None


def _say(line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def calibrate(
    out: Annotated[Path, typer.Option(help="Folder for recording.jsonl and the logs.")],
    config: Config = Path("configs/tiny.yaml"),
    quick: Annotated[bool, typer.Option(help="Fewer shapes, for a first look.")] = False,
    addons: Annotated[
        bool, typer.Option(help="Also requests with adapters and ControlNets, for suite addons.")
    ] = False,
    pool: Pool = None,
) -> None:
    """Measure both systems on this machine: what a profile of costs is fitted from."""
    weights = package_path("zoo", "weights", "lego-tiny")
    with _bad_input_ends():
        pin(CORES)
        out.mkdir(parents=True, exist_ok=True)
        prepared = prepare_addons(out, _say, pool) if addons else None
        with_addons = prepared.workload.solo_grid() if prepared is not None else []
        made = Calibration(plan(quick=quick, with_addons=with_addons), _say)
        served = config if prepared is None else prepared.storage.lego_config(config, MIXED.model)
        made.lego(lego_server(served, MIXED.model, out / "server.log"))
        for layout in LAYOUTS:
            file = None if prepared is None else prepared.storage.baseline_file(layout.replicas)
            start = monolith(
                weights,
                MAX_SEQUENCE_LENGTH,
                out / "baseline.log",
                replicas=layout.replicas,
                threads=layout.threads,
                compiled=False,
                addons=file,
            )
            made.baseline(start, layout)
        write_recording(out / "recording.jsonl", made.groups)
    _say(str(out / "recording.jsonl"))


def fit(
    recordings: Annotated[list[Path], typer.Argument(help="Files that `calibrate` wrote.")],
    out: Annotated[Path, typer.Option(help="The profile to write.")],
    cores: Annotated[int, typer.Option(min=1, help="Cores that both systems had.")] = CORES,
    text_rows: Annotated[int, typer.Option(min=0, help="Text rows of a branch; those of lego-tiny.")] = TEXT_ROWS,
) -> None:
    """Fit the profile of costs."""
    with _bad_input_ends():
        groups = [group for path in recordings for group in read_recording(path)]
        measured = max((path.stat().st_mtime for path in recordings), default=0.0)
        at = datetime.fromtimestamp(measured, UTC).isoformat(timespec="seconds")
        profile = fit_profile(groups, cores, at, text_rows)
        write_profile(out, profile)
    _say(f"{out}: {profile}")


def predict(
    suites: Annotated[list[str], typer.Argument(metavar=f"[{'|'.join(SUITES)}]...")],
    profile: Annotated[Path, typer.Option(help="The profile that `fit` wrote.")],
    out: Annotated[Path, typer.Option(help="Folder for prediction.json.")],
    quick: Quick = False,
    held_out: Annotated[list[str] | None, typer.Option(help="Suites that nothing may be fitted from.")] = None,
    backbones: Annotated[int, typer.Option(min=1, help="Backbone replicas of the configuration.")] = 2,
    pool: Pool = None,
) -> None:
    """Simulate suites and write what they will measure; to be committed before any `run`."""
    with _bad_input_ends():
        costs, withheld = read_profile(profile), tuple(held_out or ())
        for name in (*suites, *withheld):
            if name not in SUITES:
                raise ConfigError(did_you_mean("suite", name, SUITES))
        if seen := set(withheld) & set(costs.fitted_from):
            raise ConfigError(f"{profile} was fitted from {', '.join(sorted(seen))}, to be held out; fit one without")
        made = {name: _predicted(name, costs, ServerLayout(backbones), out, pool, quick=quick) for name in suites}
        commit = describe_commit(Path(__file__).parent)
        document = Prediction(_now(), commit, quick, costs.fitted_from, withheld, digest_of(profile), made)
        path = write_prediction(out, document)
    for observation in made.values():
        console.print(_table_of(observation))
    _say(str(path))


def _predicted(
    name: str, profile: Profile, layout: ServerLayout, out: Path, pool: Path | None, *, quick: bool
) -> Observation:
    suite, simulation = SUITES[name], Simulation(profile, layout, SEED)
    watch = Watch(simulation.clock, lambda line: None)
    if isinstance(suite, GoodputSuite):
        return observe_goodput(suite, simulation.goodput_systems(), watch, quick=quick)
    hooks, store = SuiteHooks(Workload(suite, SEED)), None
    if suite is ADDONS:
        addons = prepare_addons(out / "addons", _say, pool)
        hooks, store = SuiteHooks(addons.workload, addons.storage), SuiteStore(addons.pool, addons.storage)
    return observe_mixed(suite, simulation.mixed_systems(store), hooks, watch, quick=quick)


def run(
    suite: Annotated[str, typer.Argument(help=f"One of: {', '.join(SUITES)}.")],
    prediction: Annotated[Path, typer.Option(help="The prediction, whose rates are offered.")],
    out: Annotated[Path, typer.Option(help="Folder for summary.json and the logs.")],
    config: Config = Path("configs/tiny.yaml"),
    pool: Pool = None,
) -> None:
    """Measure a suite on real servers, at the rates that were predicted."""
    with _bad_input_ends():
        document = read_prediction(prediction)
        if suite not in document.suites:
            raise ConfigError(did_you_mean("suite of the prediction", suite, document.suites))
        began_at, context = _now(), describe_run(pin(CORES), quick=document.quick)
        out.mkdir(parents=True, exist_ok=True)
        limit_rps = document.suites[suite].limit_rps
        found = _measured(SUITES[suite], config, out, pool, limit_rps=limit_rps, quick=document.quick)
        path = write_run(out, Run(began_at, document.quick, digest_of(prediction), found, context))
    console.print(_table_of(found))
    _say(str(path))


def _measured(
    suite: MixedSuite | GoodputSuite, config: Path, out: Path, pool: Path | None, *, limit_rps: float, quick: bool
) -> Observation:
    weights, watch = package_path("zoo", "weights", "lego-tiny"), Watch(time.monotonic, _say)
    if isinstance(suite, GoodputSuite):
        real = goodput_systems(suite, weights, config, out)
        return observe_goodput(suite, real, watch, quick=quick, limit_rps=limit_rps)
    hooks, systems = SuiteHooks(Workload(suite, SEED)), mixed_systems(weights, config, out)
    if suite is ADDONS:
        addons = prepare_addons(out, _say, pool)
        hooks = SuiteHooks(addons.workload, addons.storage)
        systems = addons_systems(addons, weights, MAX_SEQUENCE_LENGTH, config, out)
    return observe_mixed(suite, systems, hooks, watch, quick=quick, limit_rps=limit_rps)


def compare(
    prediction: Annotated[Path, typer.Argument(help="The committed prediction.")],
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs; several of one suite are repeats.")],
    markdown: Annotated[Path | None, typer.Option(help="Write the table to this file.")] = None,
) -> None:
    """Print what was predicted and what was measured; exit code 1 where an error is above its bound."""
    with _bad_input_ends():
        document, digest, at = read_prediction(prediction), digest_of(prediction), committed_at(prediction)
        found = [read_run(folder) for folder in runs]
        for folder, each in zip(runs, found, strict=True):
            try:
                check_blind(document, digest, at, each)
            except NotBlindError as error:
                raise ConfigError(f"{folder}: {error}") from None
        rows = comparison.compare(document, found)
    table = rich.table.Table(*HEAD)
    for row in rows:
        table.add_row(*_cells(row))
    console.print(table)
    if markdown is not None:
        lines = [HEAD, ("---",) * len(HEAD), *map(_cells, rows)]
        markdown.write_text("".join(f"| {' | '.join(line)} |\n" for line in lines))
    if not all(row.is_met for row in rows):
        raise typer.Exit(1)


HEAD = ("suite", "quantity", "predicted", "measured", "error", "bound", "")


def _cells(row: Row) -> tuple[str, ...]:
    values = ("none" if each is None else f"{each:.3f}" for each in (row.predicted, row.measured))
    unit = " %" if row.bound.endswith("%") else " points"
    error = "-" if row.error is None else f"{100 * row.error:+.1f}{unit}"
    return row.suite, row.what, *values, error, row.bound, "pass" if row.is_met else "FAIL"


def _table_of(found: Observation) -> rich.table.Table:
    ratio = "none" if found.ratio is None else f"{found.ratio:.2f}"
    title = (
        f"{found.suite}: limit {found.limit_rps:.2f}/s, ratio {ratio} ({found.ratio_of}), highest {found.highest_rps}"
    )
    table = rich.table.Table("of the limit", "1/s", "", "mean s", "p50 s", "p95 s", "in time", title=title)
    for load in found.loads:
        for name in ("baseline", "lego"):
            each = load.of(name)
            seconds = [f"{value:.3f}" for value in (each.mean_s, each.p50_s, each.p95_s)]
            table.add_row(f"{load.factor:g}", f"{load.rate_rps:.2f}", name, *seconds, f"{each.attainment:.1%}")
    return table
