"""``lego-serve tune grid | quality | prune``: finds how much of a model's work is enough, and what less costs."""

import contextlib
import hashlib
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from lego_serve import config
from lego_serve.cli.client import print_line, print_table
from lego_serve.core.tiers.block_rows import BlockRows
from lego_serve.core.tiers.book import TIERS, TierBook, TierRun
from lego_serve.core.tiers.book_json import FILE, from_json
from lego_serve.core.tiers.own_rows import OwnRows
from lego_serve.deployment import model_spec
from lego_serve.errors import ConfigError, LegoError, RequestError
from lego_serve.models.registry import ModelSpec
from lego_serve.models.tier_files import ROUTER, local_folder, read_book, write_book
from lego_serve.models.weights_digest import denoiser_digest
from lego_serve.places import resolve_path

if TYPE_CHECKING:
    from lego_serve.tuning.grid_search import Tuned
    from lego_serve.tuning.quality import Judge

Config = Annotated[
    Path | None, typer.Option("--config", metavar="CONFIG", help="A YAML file; by default configs/tiny.yaml.")
]
OfModel = Annotated[str | None, typer.Option("--model", help="The model, if the file has several.")]
Steps = Annotated[int, typer.Option(min=4, max=200, help="Steps that the tiers stand for.")]
Sampler = Annotated[str, typer.Option(help="The sampler of these steps: euler or dpmpp_2m.")]
Side = Annotated[int, typer.Option(min=16, help="Side in pixels of the images; the largest there are, for `grid`.")]
Guidance = Annotated[float, typer.Option(min=0, help="Guidance of these images.")]
Share = Annotated[float, typer.Option(min=0.05, max=1.0, help="Mean share of rows in all blocks but the first.")]
Prompts = Annotated[Path | None, typer.Option(help="A file of prompts, one a line; more are more careful.")]
app = typer.Typer(no_args_is_help=True, help="Tune the tiers of a model: fewer evaluations, nearly the same images.")
SHARES = {"high": 1 / 2, "balanced": 10 / 28, "fast": 1 / 4}  # of the steps, by tier
IMAGES = 8
PROMPTS = (
    "a photo of a red bicycle that leans on a white wall",
    "an oil painting of a harbour at dusk, many small boats",
    "a portrait of an old fisherman, soft light, plain background",
    "a bowl of oranges on a wooden table",
    "a street in the rain at night, neon signs, reflections",
    "a line drawing of a cat asleep on a chair",
    "a mountain lake in the morning, pine trees, fog",
    "a close-up of a green leaf with drops of water",
)


@app.command("grid")
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
    out: Annotated[Path | None, typer.Option(help="Write the tiers here instead of beside the weights.")] = None,
) -> None:
    """Find the grids of every tier for a number of steps, and write those that come near beside the weights."""
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
    _write(denoiser_digest(folder), runs, file)
    print_table(_table(counts, found))
    print_line(
        f"{file}: {len(runs)} tiers of {steps} steps of {sampler}, in {time.process_time() - began:.0f} s of one thread"
    )


@app.command("quality")
def tune_quality(
    samples: Annotated[Path, typer.Option(help="Where samples are kept, batch by batch; it goes on from there.")],
    config_path: Config = None,
    model: OfModel = None,
    steps: Steps = 28,
    sampler: Sampler = "euler",
    side: Side = 256,
    guidance: Guidance = 4.0,
    prompts: Prompts = None,
    count: Annotated[int, typer.Option(min=1, help="Images to draw in every tier.")] = 48,
    out: Annotated[Path | None, typer.Option(help="The file of tiers, instead of the one beside the weights.")] = None,
) -> None:
    """Measure what the tiers of a number of steps do to images, and write it into the model's file of tiers."""
    spec, folder, file = tuned_model(config_path, model, out)
    from lego_serve.engine.offline import OfflinePipeline
    from lego_serve.tuning.quality import Row, measure_all, quality_of, table
    from lego_serve.tuning.sample_file import SampleFile
    from lego_serve.tuning.trajectories import Calibration

    try:
        book = read_book(spec.path, file)
    except ValueError as error:
        raise ConfigError(f"model {spec.name}: {error}") from None
    runs = [run for run in book.runs if run.is_for(sampler, steps, side * side) and run.checkpoint is None]
    if not runs:
        raise ConfigError(f"{file} has no tier for {steps} steps of {sampler} at {side}x{side}; tune its grids first")
    texts, judge = _judged(spec.path, prompts, count)
    rows = [Row("exact", None, steps), *(Row.of(run) for run in runs)]
    images, kept = Calibration(texts, side, side, guidance), SampleFile(samples)
    measure_all(OfflinePipeline.load(spec), images, rows, kept, steps=steps, sampler=sampler, judge=judge)
    found, setting = table(kept.samples), f"{side}x{side}, guidance {guidance:g}"
    measured = [replace(run, quality={**run.quality, setting: quality_of(found, run.tier)}) for run in runs]
    _write(denoiser_digest(folder), measured, file)
    for run in measured:
        print_line(f"{run.tier}: {json.dumps(run.quality[setting])}")


@app.command("prune")
def tune_prune(
    state: Annotated[Path, typer.Option(help="The folder of lessons and of the training, which goes on from there.")],
    config_path: Config = None,
    model: OfModel = None,
    steps: Steps = 28,
    sampler: Sampler = "euler",
    side: Side = 256,
    guidance: Guidance = 4.0,
    prompts: Prompts = None,
    share: Share = 0.6,
    minutes: Annotated[float, typer.Option(min=0, help="Minutes of training, all runs together.")] = 30.0,
    out: Annotated[Path | None, typer.Option(help="Write the router here instead of beside the weights.")] = None,
) -> None:
    """Train a router: which rows of an image later blocks compute, where a tier has rows per block."""
    spec, folder, _ = tuned_model(config_path, model, None)
    from lego_serve.engine.offline import OfflinePipeline
    from lego_serve.models.router_files import write_router
    from lego_serve.tuning.lessons import LESSON_IMAGES
    from lego_serve.tuning.pruned_pass import PrunedPass
    from lego_serve.tuning.router_training import RouterPlan, RouterTrainer
    from lego_serve.tuning.trajectories import Calibration

    spec = replace(spec, dtype="float32")
    learning = PrunedPass.load(spec)
    plan = RouterPlan(BlockRows.about(share, steps, learning.blocks), 60 * minutes)
    texts = prompts_of(spec.path, prompts, LESSON_IMAGES * plan.lessons)
    images, pipeline = Calibration(texts, side, side, guidance, first_seed=20_000), OfflinePipeline.load(spec)
    digest = denoiser_digest(folder)
    kept = state / named_by(digest, images, steps, sampler, plan.rows)  # what is learned of one is not for another
    found = RouterTrainer(
        kept, pipeline, learning, images, steps, sampler, plan, clock=time.monotonic, report=print_line
    ).run()
    file = folder / ROUTER if out is None else out
    try:
        write_router(found.router, digest, file)
    except OSError as error:
        raise LegoError(f"{file}: cannot be written: {error.strerror}; the training is kept in {kept}") from None
    losses = ", ".join(f"{name} {loss:.5f}" for name, loss in found.losses.items())
    print_line(f"{file}: {found.updates} updates; {plan.rows.rows_ratio:.0%} of rows, held-out loss: {losses}")


def named_by(*facts: object) -> str:
    """Return a name that only these facts have."""
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def _routed_blocks(folder: Path) -> int:
    """Return the blocks of the router beside a model's weights.  Raises ConfigError."""
    from lego_serve.models.router_files import read_router

    try:
        return read_router(folder / ROUTER, denoiser_digest(folder)).blocks
    except ValueError as error:
        raise ConfigError(f"rows per block need a router, which `lego-serve tune prune` makes: {error}") from None


def _judged(path: str, file: Path | None, count: int) -> tuple[tuple[str, ...], "Judge | None"]:
    """Return the prompts to measure with, and who judges their images: lego-tiny has a judge of its own."""
    if file is not None or path != "builtin:lego-tiny":
        return prompts_of(path, file)[:count], None
    from lego_serve.zoo.judge.prompts import faults, mixed_prompts

    asked = mixed_prompts(count)
    return tuple(prompt.text for prompt in asked), lambda index, pixels: not faults(asked[index], pixels)


def tuned_model(config_path: Path | None, model: str | None, out: Path | None) -> tuple[ModelSpec, Path, Path]:
    """Return the model to tune, the folder of its weights and the file of its tiers.  Raises ConfigError."""
    settings = config.load(config_path or config.default_config())
    spec = model_spec(settings, _model(settings, model))
    folder, named = local_folder(spec.path), settings.models[spec.name].tiers
    if folder is None:
        raise ConfigError(f"model {spec.name} is no folder on this machine: nothing can be tuned")
    return spec, folder, out or (folder / FILE if named is None else resolve_path(settings, named))


def _run(tier: str, sampler: str, steps: int, pixels: tuple[int, int], tuned: "Tuned") -> TierRun:
    quality = {"grid": tuned.chosen.name, "latents_psnr": round(tuned.chosen.likeness_db, 2)}
    return TierRun(tier, sampler, steps, pixels, tuned.chosen.grid, quality)


def _write(weights: str, runs: list[TierRun], file: Path) -> None:
    """Write runs into a book, in place of those for the same steps of the same tier; other steps' stay."""
    kept: tuple[TierRun, ...] = ()
    with contextlib.suppress(OSError, ValueError):  # of other weights, or damaged: this run begins anew
        book = from_json(json.loads(file.read_text()))
        book.check(weights)
        kept = book.runs
    new = {(run.tier, run.sampler, run.steps, run.pixels) for run in runs}
    runs = [*(run for run in kept if (run.tier, run.sampler, run.steps, run.pixels) not in new), *runs]
    runs.sort(key=lambda run: (run.sampler, run.steps, run.pixels, TIERS.index(run.tier)))
    try:
        write_book(TierBook(tuple(runs), weights=weights), file)
    except OSError as error:
        raise LegoError(f"{file}: cannot be written: {error.strerror}") from None


def _table(counts: dict[str, int], found: dict[int, "Tuned"]) -> Table:
    shown = Table("tier", "evaluations", "tuned shift", "latents, dB", "planned, dB", "taken")
    for tier, count in counts.items():
        tuned = found[count]
        cells = (tuned.shifted.name, f"{tuned.shifted.likeness_db:.1f}", f"{tuned.planned.likeness_db:.1f}")
        shown.add_row(tier, str(count), *cells, tuned.chosen.name)
    return shown


def prompts_of(path: str, file: Path | None, count: int = IMAGES) -> tuple[str, ...]:
    """Return the prompts to tune on: those of a file, or else some that the model knows, ``count`` if it can."""
    if file is not None:
        try:
            lines = tuple(line.strip() for line in file.read_text().splitlines() if line.strip())
        except OSError as error:
            raise LegoError(f"{file}: cannot be read: {error.strerror}") from None
        if not lines:
            raise RequestError(f"{file} holds no prompt.", param="prompts")
        return lines
    if path != "builtin:lego-tiny":
        return PROMPTS
    from lego_serve.zoo.world.captions import calibration_captions

    return calibration_captions(count)


def _model(settings: config.Settings, named: str | None) -> str:
    """Return the model that is named, or the only one.  Raises ConfigError."""
    names = [name for name in settings.models if named in (None, name)]
    if len(names) != 1:
        raise ConfigError(f"name one `--model` of {', '.join(settings.models)}")
    return names[0]
