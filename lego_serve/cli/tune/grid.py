"""``lego-serve tune grid``: finds the sigmas that a tier runs in place of all steps."""

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from lego_serve.cli.client import print_line, print_table
from lego_serve.cli.tune.options import (
    Config,
    Guidance,
    OfModel,
    Prompts,
    Sampler,
    Side,
    Steps,
    prompts_of,
    tuned_model,
    write_runs,
)
from lego_serve.core.tiers.block_rows import BlockRows
from lego_serve.core.tiers.book import TierRun
from lego_serve.core.tiers.own_rows import OwnRows
from lego_serve.errors import ConfigError, RequestError
from lego_serve.models.tier_files import ROUTER
from lego_serve.models.weights_digest import denoiser_digest

if TYPE_CHECKING:
    from lego_serve.tuning.grid_search import Tuned

SHARES = {"high": 1 / 2, "balanced": 10 / 28, "fast": 1 / 4}  # of the steps, by tier


def tune_grid(
    config_path: Config = None,
    model: OfModel = None,
    steps: Steps = 28,
    sampler: Sampler = "euler",
    side: Side = 256,
    smallest: Annotated[int, typer.Option(min=16, help="Side in pixels of the smallest images to serve so.")] = 96,
    guidance: Guidance = 4.0,
    prompts: Prompts = None,
    own_rows: Annotated[
        float | None,
        typer.Option(min=0.01, max=0.99, help="Tiers compute this share of rows in later steps."),
    ] = None,
    block_rows: Annotated[
        float | None,
        typer.Option(min=0.05, max=1.0, help="Tiers' later blocks compute this share of rows, of a router's choice."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The file of tiers, instead of the model's own.")] = None,
) -> None:
    """Find the grids of `high`, `balanced` and `fast` for a number of steps, and write them into the model's tiers."""
    _check(smallest, side, own_rows, block_rows)
    spec, folder, file = tuned_model(config_path, model, out)
    blocks = 0 if block_rows is None else _routed_blocks(folder)
    from lego_serve.engine.offline import OfflinePipeline
    from lego_serve.tuning.grid_search import tune_grids
    from lego_serve.tuning.trajectories import Calibration

    pipeline, began = OfflinePipeline.load(spec), time.process_time()
    images = Calibration(prompts_of(spec.path, prompts), side, side, guidance, first_seed=10_000)
    counts = {tier: max(1, round(share * steps)) for tier, share in SHARES.items()}
    found = tune_grids(pipeline, images, steps, sorted(set(counts.values()), reverse=True), sampler)
    pixels = smallest * smallest, side * side
    runs = [_run(tier, sampler, steps, pixels, found[count]) for tier, count in counts.items()]
    if own_rows is not None:
        runs = [replace(run, own_rows=OwnRows(own_rows)) for run in runs]
    if block_rows is not None:
        runs = [replace(run, block_rows=BlockRows.about(block_rows, run.grid.evaluations, blocks)) for run in runs]
    write_runs(denoiser_digest(folder), runs, file)
    print_table(_table(counts, found))
    print_line(
        f"{file}: {len(runs)} tiers of {steps} steps of {sampler}, in {time.process_time() - began:.0f} s of one thread"
    )


def _check(smallest: int, side: int, own_rows: float | None, block_rows: float | None) -> None:
    """Raise RequestError for options that no tier could have, before anything is drawn."""
    if smallest > side:
        message = f"The smallest images, {smallest} pixels a side, are larger than the largest, `--side` {side}."
        raise RequestError(message, param="smallest")
    if own_rows is not None and block_rows is not None:
        message = "A tier has either own rows or rows per block: give `--own-rows` or `--block-rows`, not both."
        raise RequestError(message, param="block-rows")


def _routed_blocks(folder: Path) -> int:
    """Return the blocks of the router beside a model's weights.  Raises ConfigError."""
    from lego_serve.models.router_files import read_router

    try:
        return read_router(folder / ROUTER, denoiser_digest(folder)).blocks
    except ValueError as error:
        raise ConfigError(f"rows per block need a router, which `lego-serve tune prune` makes: {error}") from None


def _run(tier: str, sampler: str, steps: int, pixels: tuple[int, int], tuned: "Tuned") -> TierRun:
    quality = {"grid": tuned.chosen.name, "latents_psnr": round(tuned.chosen.likeness_db, 2)}
    return TierRun(tier, sampler, steps, pixels, tuned.chosen.grid, quality)


def _table(counts: dict[str, int], found: dict[int, "Tuned"]) -> Table:
    shown = Table("tier", "evaluations", "tuned shift", "latents, dB", "planned, dB", "taken")
    for tier, count in counts.items():
        tuned = found[count]
        cells = (tuned.shifted.name, f"{tuned.shifted.likeness_db:.1f}", f"{tuned.planned.likeness_db:.1f}")
        shown.add_row(tier, str(count), *cells, tuned.chosen.name)
    return shown
