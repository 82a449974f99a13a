"""What is measured of a model over lessons, and the training of residuals on it."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.engine.offline import OfflinePipeline
from lego_serve.models.ragged.layers import block_layers
from lego_serve.models.registry import ModelSpec
from lego_serve.tuning.lessons import Lessons
from lego_serve.tuning.sparse24.measuring import VelocityError, fit_residuals, groups
from lego_serve.tuning.sparse24.search import SearchPlan, search, spread, velocity_error
from lego_serve.tuning.sparse24.sparse_pass import SparsePass
from lego_serve.tuning.sparse24.training import ResidualTrainer
from lego_serve.tuning.trajectories import Calibration
from lego_serve.zoo.world.captions import calibration_captions

SPEC = ModelSpec("m", "builtin:lego-tiny", dtype="float32", max_sequence_length=0)
STEPS = 4


@pytest.fixture(scope="module")
def pipeline() -> OfflinePipeline:
    """The model that ships: random weights have rows like no model's."""
    return OfflinePipeline.load(SPEC)


@pytest.fixture(scope="module")
def lessons(pipeline: OfflinePipeline, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lessons]:
    """Of two small images each."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("lego_serve.tuning.lessons.LESSON_IMAGES", 2)
        images = Calibration(calibration_captions(8), 96, 96, 4.0)
        yield Lessons(tmp_path_factory.mktemp("lessons"), pipeline, images, STEPS, "euler")


@given(sizes=st.lists(st.integers(1, 9), max_size=9), most=st.integers(1, 20))
def test_groups_have_every_name_once_and_stay_within_the_size(sizes: list[int], most: int) -> None:
    """Unless one alone is larger."""
    named = {str(index): size for index, size in enumerate(sizes)}
    found = list(groups(named, most))
    assert [name for group in found for name in group] == list(named)
    assert all(len(group) == 1 or sum(named[name] for name in group) <= most for group in found)


@given(steps=st.integers(1, 200), count=st.integers(1, 8))
def test_steps_are_spread_from_the_first(steps: int, count: int) -> None:
    """At least as many as asked for, where there are, and less than twice as many."""
    found = spread(steps, count)
    assert found[0] == 0
    assert min(steps, count) <= len(found) < 2 * count + 1
    assert found[-1] < steps


def test_a_residual_makes_a_layer_lose_less_and_watching_changes_nothing(
    pipeline: OfflinePipeline, lessons: Lessons
) -> None:
    """Fitted in one pass over the lessons or in several, it is the same; no layer loses nothing."""
    backbone, [held_out, *learned] = pipeline.backbone, lessons.first(3)
    layers = block_layers(vars(backbone))
    names = [name for name in layers if name.endswith("ff.net.2")][:3]
    error = VelocityError(backbone, held_out, range(STEPS))
    assert error.of({}) == 0
    at_once = dict(fit_residuals(backbone, learned, names, 8, range(STEPS)))
    by_itself = dict(fit_residuals(backbone, learned, names, 8, range(STEPS), max_bytes=1))
    assert list(at_once) == list(by_itself) == names
    for name in names:
        fitted = at_once[name]
        torch.testing.assert_close(
            fitted.residual.a @ fitted.residual.b, by_itself[name].residual.a @ by_itself[name].residual.b
        )
        assert 0 < fitted.error < fitted.without
        nothing = type(fitted.residual)(torch.zeros_like(fitted.residual.a), fitted.residual.b)
        assert 0 < error.of({name: fitted.residual}) < error.of({name: nothing})
    assert error.of({}) == 0, "every layer is as before"
    assert all(layer.kind is None for layer in layers.values())


def test_the_pass_that_learns_is_the_pass_that_is_served_and_learning_helps(
    pipeline: OfflinePipeline, lessons: Lessons, tmp_path: Path
) -> None:
    """Its loss is the square of what the backbone's velocity loses; it falls on images that nothing is learned from."""
    backbone, plan = pipeline.backbone, SearchPlan(4, 1.0, ("qkv", "second"))
    found = search(backbone, lessons, plan)
    assert len(found.sparse) > 12
    parts = {name: layer.parts for name, layer in block_layers(vars(backbone)).items()}
    learning, fresh = (SparsePass.load(SPEC, found.residuals, parts) for _ in range(2))
    [held_out] = lessons.first(1)
    with torch.no_grad():
        loss = learning.loss(held_out.examples(2, [0, 1]))
    wanted = VelocityError(backbone, held_out, [2]).of(found.residuals)
    assert float(loss) == pytest.approx(wanted**2, rel=1e-2)
    before = velocity_error(backbone, lessons, found.residuals)
    assert before == pytest.approx(found.error)
    ticks = itertools.count()
    trainer = ResidualTrainer(
        tmp_path / "state", learning, lessons, STEPS, 30.0, most=3,
        clock=lambda: float(next(ticks)), report=lambda line: None,
    )  # fmt: skip
    trained = trainer.run()
    assert velocity_error(backbone, lessons, trained) < before
    again = ResidualTrainer(
        tmp_path / "state", fresh, lessons, STEPS, 30.0, most=3,
        clock=lambda: float(next(ticks)), report=lambda line: None,
    ).run()  # fmt: skip
    assert all(torch.equal(again[name].a, each.a) for name, each in trained.items()), "its time was over"
