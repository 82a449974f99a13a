"""``lego-serve tune grid``: measures which evaluations of a model are enough, and writes its tiers."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from lego_serve import config
from lego_serve.cli.client import print_line, print_table
from lego_serve.core.tiers.book import TIERS, TierBook, TierRun
from lego_serve.core.tiers.book_json import FILE
from lego_serve.deployment import model_spec
from lego_serve.errors import ConfigError, LegoError, RequestError
from lego_serve.models.tier_files import local_folder, read_book, write_book
from lego_serve.models.weights_digest import DENOISER, weights_digest
from lego_serve.places import resolve_path

if TYPE_CHECKING:
    from lego_serve.tuning.grid_search import Tuned

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


@app.callback()
def commands() -> None:
    """Tune the tiers of a model: fewer evaluations, nearly the same images."""


@app.command("grid")
def tune_grid(
    config_path: Annotated[
        Path | None, typer.Option("--config", metavar="CONFIG", help="A YAML file; by default configs/tiny.yaml.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The model, if the file has several.")] = None,
    steps: Annotated[int, typer.Option(min=4, max=200, help="Steps that the tiers stand for.")] = 28,
    sampler: Annotated[str, typer.Option(help="The sampler of these steps: euler or dpmpp_2m.")] = "euler",
    side: Annotated[
        int, typer.Option(min=16, help="Side in pixels of the images to tune on, the largest there are.")
    ] = 256,
    smallest: Annotated[int, typer.Option(min=16, help="Side in pixels of the smallest images to serve so.")] = 96,
    guidance: Annotated[float, typer.Option(min=0, help="Guidance of these images.")] = 4.0,
    prompts: Annotated[Path | None, typer.Option(help="A file of prompts, one a line; more are more careful.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the tiers here instead of beside the weights.")] = None,
) -> None:
    """Find the grids of every tier for a number of steps, and write those that come near beside the weights."""
    settings = config.load(config_path or config.default_config())
    spec = model_spec(settings, _model(settings, model))
    folder, named = local_folder(spec.path), settings.models[spec.name].tiers
    file = out or (resolve_path(settings, named) if named is not None else folder and folder / FILE)
    if file is None or folder is None:
        raise ConfigError(f"model {spec.name} is no folder on this machine: nothing can be tuned")
    from lego_serve.engine.offline import OfflinePipeline
    from lego_serve.tuning.grid_search import tune_grids
    from lego_serve.tuning.trajectories import Calibration

    pipeline, began = OfflinePipeline.load(spec), time.process_time()
    images = Calibration(_prompts(spec.path, prompts), side, side, guidance, first_seed=10_000)
    counts = {tier: max(1, round(share * steps)) for tier, share in SHARES.items()}
    found = tune_grids(pipeline, images, steps, sorted(set(counts.values()), reverse=True), sampler)
    pixels = smallest * smallest, side * side
    runs = [_run(tier, sampler, steps, pixels, found[count]) for tier, count in counts.items()]
    _write(spec.path, weights_digest(folder, DENOISER), runs, file)
    print_table(_table(counts, found))
    print_line(
        f"{file}: {len(runs)} tiers of {steps} steps of {sampler}, in {time.process_time() - began:.0f} s of one thread"
    )


def _run(tier: str, sampler: str, steps: int, pixels: tuple[int, int], tuned: "Tuned") -> TierRun:
    quality = {"grid": tuned.chosen.name, "latents_psnr": round(tuned.chosen.likeness_db, 2)}
    return TierRun(tier, sampler, steps, pixels, tuned.chosen.grid, quality)


def _write(path: str, weights: str, runs: list[TierRun], file: Path) -> None:
    """Write runs into a book, in place of those for the same steps of the same tier; other steps' stay."""
    try:
        kept = read_book(path, file).runs if file.is_file() else ()
    except ValueError:  # of other weights, or damaged: this run begins anew
        kept = ()
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


def _prompts(path: str, file: Path | None) -> tuple[str, ...]:
    """Return the prompts to tune on: those of a file, or else some that the model knows."""
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

    return calibration_captions(IMAGES)


def _model(settings: config.Settings, named: str | None) -> str:
    """Return the model that is named, or the only one.  Raises ConfigError."""
    names = [name for name in settings.models if named in (None, name)]
    if len(names) != 1:
        raise ConfigError(f"name one `--model` of {', '.join(settings.models)}")
    return names[0]
