"""``lego-serve tune sparse24``: finds the layers of a model that may leave out half of each row."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
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
)
from lego_serve.errors import LegoError, RequestError
from lego_serve.models.registry import ModelSpec
from lego_serve.models.weights_digest import denoiser_digest
from lego_serve.tuning.names import named_by

if TYPE_CHECKING:
    from lego_serve.models.ragged.linear_kinds.sparse24_rows import Residual
    from lego_serve.tuning.sparse24.search import Found, SearchPlan
    from lego_serve.tuning.trajectories import Calibration

# 0.08 made 19 of lego-tiny's 45 layers sparse and left images 39.6 dB like the dense ones, 0.12 24 layers and 35.6 dB.
TOLERANCE = 0.1
LESSONS = 24
State = Annotated[
    Path | None, typer.Option(help="The folder of lessons and of the training, which goes on from there; else none.")
]
Minutes = Annotated[float, typer.Option(min=0, help="Minutes of training all residuals together, all runs together.")]
Kinds = Annotated[list[str] | None, typer.Option(help="Only layers of a kind: qkv, out, first or second; else all.")]
Tolerance = Annotated[
    float, typer.Option(min=0, help="The velocity's error that all sparse layers may make together, as a share of it.")
]


def tune_sparse24(
    config_path: Config = None,
    model: OfModel = None,
    state: State = None,
    steps: Steps = 28,
    sampler: Sampler = "euler",
    side: Side = 256,
    guidance: Guidance = 4.0,
    prompts: Prompts = None,
    rank: Annotated[int, typer.Option(min=1, max=256, help="Rank of each layer's residual.")] = 16,
    kinds: Kinds = None,
    tolerance: Tolerance = TOLERANCE,
    minutes: Minutes = 0.0,
    out: Annotated[Path | None, typer.Option(help="Write the layers here instead of beside the weights.")] = None,
) -> None:
    """Find the layers that may multiply rows in 2:4 (`linear: sparse24`), and fit and train their residuals."""
    spec, folder, _ = tuned_model(config_path, model, None)
    from lego_serve.models.ragged.linear_kinds.roles import ROLES
    from lego_serve.models.sparse24_files import FILE, write_sparse24
    from lego_serve.tuning.lessons import LESSON_IMAGES
    from lego_serve.tuning.sparse24.search import SearchPlan
    from lego_serve.tuning.trajectories import Calibration

    roles = tuple(kinds or ROLES)
    if unknown := sorted(set(roles) - set(ROLES)):
        raise RequestError(f"There is no kind of layer {unknown[0]!r}; there are {', '.join(ROLES)}.", param="kinds")
    texts = prompts_of(spec.path, prompts, LESSON_IMAGES * LESSONS)
    images, digest = Calibration(texts, side, side, guidance, first_seed=30_000), denoiser_digest(folder)
    with _kept(state, named_by(digest, images, steps, sampler)) as kept:
        plan = SearchPlan(rank, tolerance, roles)
        found, residuals = _found(replace(spec, linear="dense"), images, steps, sampler, plan, minutes, kept)
    file = folder / FILE if out is None else out
    try:
        write_sparse24(residuals, digest, file)
    except OSError as error:
        raise LegoError(f"{file}: cannot be written: {error.strerror}") from None
    print_line(f"{file}: {len(residuals)} of {len(found.layers)} layers in 2:4, with residuals of rank {rank}")


def _found(
    spec: ModelSpec,
    images: "Calibration",
    steps: int,
    sampler: str,
    plan: "SearchPlan",
    minutes: float,
    folder: Path,
) -> "tuple[Found, dict[str, Residual]]":
    """Return what was found, and the residuals of the sparse layers after so much training."""
    from lego_serve.engine.offline import OfflinePipeline
    from lego_serve.tuning.lessons import Lessons
    from lego_serve.tuning.sparse24.search import search

    spec = replace(spec, dtype="float32")
    pipeline = OfflinePipeline.load(spec)
    lessons = Lessons(folder, pipeline, images, steps, sampler)
    found = search(pipeline.backbone, lessons, plan)
    print_table(_table(found))
    print_line(f"velocity's error of the sparse ones together: {found.expected:.4f} expected, {found.error:.4f} found")
    if not minutes or not found.sparse:
        return found, found.residuals
    from lego_serve.models.ragged.layers import block_layers
    from lego_serve.tuning.sparse24.search import velocity_error
    from lego_serve.tuning.sparse24.sparse_pass import SparsePass
    from lego_serve.tuning.sparse24.training import ResidualTrainer

    parts = {name: layer.parts for name, layer in block_layers(vars(pipeline.backbone)).items()}
    file = folder / f"residuals-{named_by(plan.rank, found.sparse)}.safetensors"
    learning = SparsePass.load(spec, found.residuals, parts)
    trainer = ResidualTrainer(file, learning, lessons, steps, 60 * minutes, most=LESSONS, report=print_line)
    residuals = trainer.run()
    print_line(f"after the training: {velocity_error(pipeline.backbone, lessons, residuals):.4f}")
    return found, residuals


@contextmanager
def _kept(state: Path | None, name: str) -> Iterator[Path]:
    """Give the folder of one model's lessons in the state, which are not for another; without a state one to forget."""
    if state is not None:
        yield state / name
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def _table(found: "Found") -> Table:
    shown = Table("layer", "product's error", "with the residual", "velocity's error", "sparse")
    for each in sorted(found.layers, key=lambda layer: layer.error):
        errors = each.fitted.without, each.fitted.error, each.error
        is_sparse = "yes" if each.name in found.sparse else ""
        shown.add_row(each.name.removeprefix("transformer."), *(f"{error:.4f}" for error in errors), is_sparse)
    return shown
