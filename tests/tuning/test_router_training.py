"""The training of routers: the pass that they learn from, and that learning gains over chance."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import SD3Transformer2DModel

from lego_serve.core.tiers.block_rows import BlockRows
from lego_serve.engine.offline import OfflinePipeline
from lego_serve.models.model_files import load_module, model_folder
from lego_serve.models.ragged.lane_input import LaneInput
from lego_serve.models.ragged.pruning.router import BlockRouter
from lego_serve.models.registry import ModelSpec
from lego_serve.models.router_files import set_router
from lego_serve.tuning.pruned_pass import Examples, PrunedPass, random_score, router_score, soft_gate
from lego_serve.tuning.router_training import RouterPlan, RouterTrainer
from lego_serve.tuning.trajectories import Calibration
from lego_serve.zoo.world.captions import calibration_captions
from tests.support.transformers import tokens_of

SPEC = ModelSpec("m", "builtin:lego-tiny", dtype="float32", max_sequence_length=0)
STEPS, BLOCKS, WIDTH = 6, 6, 128
ROWS = BlockRows.rising(0.3, 0.5, STEPS, BLOCKS)


@pytest.fixture(scope="module")
def pipeline() -> OfflinePipeline:
    """The model that ships: random weights have nothing to learn from."""
    return OfflinePipeline.load(SPEC)


@pytest.fixture(scope="module")
def transformer() -> SD3Transformer2DModel:
    """Its transformer, as diffusers has it."""
    module: SD3Transformer2DModel = load_module(
        SPEC, model_folder(SPEC, "transformer"), "transformer", SD3Transformer2DModel
    )
    return module


def trainer(
    folder: Path, pipeline: OfflinePipeline, transformer: SD3Transformer2DModel, seconds: float
) -> RouterTrainer:
    """One whose clock moves a second whenever it is asked."""
    images = Calibration(calibration_captions(24), 96, 96, 4.0)
    plan, ticks = RouterPlan(ROWS, seconds, lessons=3), itertools.count()
    return RouterTrainer(
        folder, pipeline, PrunedPass(transformer), images, STEPS, "euler", plan,
        clock=lambda: float(next(ticks)), report=lambda line: None,
    )  # fmt: skip


def test_soft_gates_fall_with_the_rank_and_rise_with_the_score() -> None:
    """About half at the last row that is taken, and the gradient of a row's own score is upward."""
    scores = torch.arange(20.0)[None].requires_grad_()
    gates = soft_gate(scores, 5)
    assert torch.equal(gates[0].argsort(descending=True), torch.arange(19, -1, -1))
    assert gates[0, 15].item() == pytest.approx(0.5, abs=0.1)
    gates[0, 14].backward()
    assert scores.grad is not None
    assert scores.grad[0, 14] > 0


def test_the_pass_that_learns_is_the_pass_that_is_served(
    pipeline: OfflinePipeline, transformer: SD3Transformer2DModel
) -> None:
    """Its loss is what the backbone's velocities say: the same rows, of both branches, and the same guidance."""
    engine_backbone = pipeline.engine._backbone
    router = BlockRouter.drawn(BLOCKS, WIDTH, seed=3)
    set_router(engine_backbone, router)
    draw = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 8, 12, 12, generator=draw)
    cond, negative = pipeline.text.encode(["a red circle", ""])
    lane = LaneInput(latents[0], 0.6, 4.0, engine_backbone.prepare(cond), engine_backbone.prepare(negative))
    rows = (36, 20, 9, 36, 12, 1)
    with torch.inference_mode():
        whole = tokens_of(engine_backbone.velocity([lane])[0])
        pruned = tokens_of(engine_backbone.velocity([replace(lane, block_rows=rows)])[0])
        wanted = (pruned - whole).square().mean() / whole.square().mean()
        tokens, pooled = (
            torch.stack([getattr(each, name) for each in (negative, cond)]) for name in ("tokens", "pooled")
        )
        found = PrunedPass(transformer).loss(Examples(latents, 0.6, tokens, pooled, 4.0), rows, router_score(router))
    engine_backbone.router = None
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-7)
    assert found > 1e-4


def test_rows_that_are_all_taken_lose_nothing(pipeline: OfflinePipeline, transformer: SD3Transformer2DModel) -> None:
    """Of an unguided lane as well, which has one branch."""
    [cond] = pipeline.text.encode(["a red circle"])
    examples = Examples(torch.randn(1, 8, 12, 12), 0.6, cond.tokens[None].clone(), cond.pooled[None].clone(), 1.0)
    assert PrunedPass(transformer).loss(examples, (36,) * BLOCKS, random_score(0)) == 0


def test_a_trained_router_loses_less_than_chance_and_goes_on_where_it_stopped(
    tmp_path: Path, pipeline: OfflinePipeline, transformer: SD3Transformer2DModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On images that it never saw, with as many rows; the state and the lessons lie in the folder."""
    monkeypatch.setattr("lego_serve.tuning.lessons.LESSON_IMAGES", 4)
    first = trainer(tmp_path, pipeline, transformer, 10.0).run()
    again = trainer(tmp_path, pipeline, transformer, 50.0).run()
    assert 0 < first.updates < again.updates
    assert again.losses["random"] == first.losses["random"]
    assert again.losses["trained"] < 0.95 * again.losses["random"]
    assert again.losses["trained"] < again.losses["untrained"]
    over = trainer(tmp_path, pipeline, transformer, 50.0).run()
    assert over.updates == again.updates, "its time was over"
    assert over.losses == again.losses
    assert again.router.scorers[0].row.requires_grad is False
