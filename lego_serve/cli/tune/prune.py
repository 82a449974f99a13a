"""``lego-serve tune prune``: trains the router that chooses rows for a tier with rows per block."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

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
)
from lego_serve.core.tiers.block_rows import BlockRows
from lego_serve.errors import LegoError
from lego_serve.models.tier_files import ROUTER
from lego_serve.models.weights_digest import denoiser_digest
from lego_serve.tuning.names import named_by

Share = Annotated[float, typer.Option(min=0.05, max=1.0, help="Mean share of rows in all blocks but the first.")]


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
