"""``lego-serve tune quality``: measures what the tiers of a model do to images, and writes it beside their grids."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lego_serve import config
from lego_serve.cli.client import print_line
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
from lego_serve.core.tiers.book import TierRun
from lego_serve.deployment import adapter_roots
from lego_serve.errors import ConfigError, RequestError
from lego_serve.models.registry import ModelSpec
from lego_serve.models.tier_files import read_book
from lego_serve.models.weights_digest import denoiser_digest
from lego_serve.tuning.names import named_by

if TYPE_CHECKING:
    from lego_serve.models.lora.adapter import Adapter
    from lego_serve.tuning.quality import Judge

Samples = Annotated[Path, typer.Option(help="Where samples are kept, batch by batch; it goes on from there.")]
Lora = Annotated[str | None, typer.Option(help="Draw them with this adapter of the model, by its id.")]
Scale = Annotated[float, typer.Option(help="The adapter's scale.")]
Out = Annotated[Path | None, typer.Option(help="The file of tiers, instead of the model's own.")]


@dataclass(frozen=True, slots=True)
class Subject:
    """The prompts to draw, what they are (in words that only they have), and who judges their images, if anybody."""

    texts: tuple[str, ...]
    of: str
    judge: "Judge | None"


def tune_quality(
    samples: Samples,
    config_path: Config = None,
    model: OfModel = None,
    steps: Steps = 28,
    sampler: Sampler = "euler",
    side: Side = 256,
    guidance: Guidance = 4.0,
    prompts: Prompts = None,
    lora: Lora = None,
    scale: Scale = 1.0,
    count: Annotated[int, typer.Option(min=1, help="Images to draw in every tier, if there are as many prompts.")] = 48,
    out: Out = None,
) -> None:
    """Measure what the tiers of a number of steps do to images, and write it into the model's file of tiers."""
    spec, folder, file = tuned_model(config_path, model, out)
    from lego_serve.engine.lane_state import AdapterUse
    from lego_serve.engine.offline import OfflinePipeline
    from lego_serve.tuning.quality import Row, measure_all, quality_of, table
    from lego_serve.tuning.sample_file import SampleFile
    from lego_serve.tuning.trajectories import Calibration

    runs = _runs(spec, file, sampler, steps, side)
    adapter = None if lora is None else _adapter(config_path, spec, lora)
    subject = _subject(spec.path, prompts, count, is_plain=adapter is None)
    rows = [Row("exact", None, steps), *(Row.of(run) for run in runs)]
    digest, setting = denoiser_digest(folder), _setting(side, guidance, adapter, scale)
    adapters = () if adapter is None else (AdapterUse(adapter, scale),)
    images = Calibration(subject.texts, side, side, guidance, adapters=adapters)
    facts = [digest, subject.of, steps, sampler, setting, None if adapter is None else adapter.sha256]
    kept = SampleFile(samples, named_by(*facts, [row.facts for row in rows]))
    pipeline = OfflinePipeline.load(spec)
    measure_all(pipeline, images, rows, kept, steps=steps, sampler=sampler, judge=subject.judge)
    found = table(kept.samples)
    measured = [replace(run, quality={**run.quality, setting: quality_of(found, run.tier)}) for run in runs]
    write_runs(digest, measured, file)
    for run in measured:
        print_line(f"{run.tier}, {setting}: {json.dumps(run.quality[setting])}")


def _runs(spec: ModelSpec, file: Path, sampler: str, steps: int, side: int) -> Sequence[TierRun]:
    """Return the model's own tiers for such images.  Raises ConfigError where it has none."""
    try:
        book = read_book(spec.path, file)
    except ValueError as error:
        raise ConfigError(f"model {spec.name}: {error}") from None
    runs = [run for run in book.runs if run.is_for(sampler, steps, side * side) and run.checkpoint is None]
    if not runs:
        raise ConfigError(f"{file} has no tier for {steps} steps of {sampler} at {side}x{side}; tune its grids first")
    return runs


def _setting(side: int, guidance: float, adapter: "Adapter | None", scale: float) -> str:
    """Return the name of a row of a tier's quality."""
    plain = f"{side}x{side}, guidance {guidance:g}"
    return plain if adapter is None else f"{plain}, adapter {adapter.adapter_id} at {scale:g}"


def _adapter(config_path: Path | None, spec: ModelSpec, name: str) -> "Adapter":
    """Read an adapter of a model.  Raises LegoError for one that it has not, and one that changes its text encoders."""
    from lego_serve.models.lora.loading import base_layers, load_adapter
    from lego_serve.models.lora.roots import find_adapter

    settings = config.load(config_path or config.default_config())
    adapter = load_adapter(name, find_adapter(name, adapter_roots(settings, spec.name)), base_layers(spec))
    if texts := sorted(path for path in adapter.pairs if not path.startswith("transformer.")):
        raise RequestError(f"Adapter {name} changes a text encoder ({texts[0]}), which is not measured.", param="lora")
    return adapter


def _subject(path: str, file: Path | None, count: int, *, is_plain: bool) -> Subject:
    """Return what to draw; lego-tiny has a judge of its own, who knows no adapters."""
    if file is not None or path != "builtin:lego-tiny":
        texts = prompts_of(path, file)
        return Subject(texts[:count], named_by(texts), None)
    from lego_serve.zoo.judge.prompts import faults, mixed_prompts

    asked = mixed_prompts(count)
    judge = (lambda index, pixels: not faults(asked[index], pixels)) if is_plain else None
    return Subject(tuple(prompt.text for prompt in asked), "held-out prompts of lego-tiny", judge)
