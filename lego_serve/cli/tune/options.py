"""The options that the commands of ``lego-serve tune`` share, and the model, prompts and file that they name."""

import contextlib
import json
from pathlib import Path
from typing import Annotated

import typer

from lego_serve import config
from lego_serve.core.tiers.book import TIERS, TierBook, TierRun
from lego_serve.core.tiers.book_json import FILE, from_json
from lego_serve.deployment import model_spec
from lego_serve.errors import ConfigError, LegoError, RequestError
from lego_serve.models.registry import ModelSpec
from lego_serve.models.tier_files import local_folder, write_book
from lego_serve.places import resolve_path

Config = Annotated[
    Path | None, typer.Option("--config", metavar="CONFIG", help="A YAML file; by default configs/tiny.yaml.")
]
OfModel = Annotated[str | None, typer.Option("--model", help="The model, if the file has several.")]
Steps = Annotated[int, typer.Option(min=4, max=200, help="Steps that the tiers stand for.")]
Sampler = Annotated[str, typer.Option(help="The sampler of these steps: euler or dpmpp_2m.")]
Side = Annotated[int, typer.Option(min=16, help="Side in pixels of the images; the largest there are, for `grid`.")]
Guidance = Annotated[float, typer.Option(min=0, help="Guidance of these images.")]
Prompts = Annotated[Path | None, typer.Option(help="A file of prompts, one a line; more are more careful.")]
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


def tuned_model(config_path: Path | None, model: str | None, out: Path | None) -> tuple[ModelSpec, Path, Path]:
    """Return the model to tune, the folder of its weights and the file of its tiers.  Raises ConfigError."""
    settings = config.load(config_path or config.default_config())
    spec = model_spec(settings, _model(settings, model))
    folder, named = local_folder(spec.path), settings.models[spec.name].tiers
    if folder is None:
        raise ConfigError(f"model {spec.name} is no folder on this machine: nothing can be tuned")
    return spec, folder, out or (folder / FILE if named is None else resolve_path(settings, named))


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


def write_runs(weights: str, runs: list[TierRun], file: Path) -> None:
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


def _model(settings: config.Settings, named: str | None) -> str:
    """Return the model that is named, or the only one.  Raises ConfigError."""
    names = [name for name in settings.models if named in (None, name)]
    if len(names) != 1:
        raise ConfigError(f"name one `--model` of {', '.join(settings.models)}")
    return names[0]
