"""The distillation of lego-tiny into four steps."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lego_serve.core.tiers.book import TierBook
from lego_serve.core.tiers.book_json import from_json
from lego_serve.core.tiers.checkpoints import Checkpoint
from lego_serve.errors import CheckpointError
from lego_serve.models.tier_files import read_book, write_book
from lego_serve.models.weights_digest import denoiser_digest
from lego_serve.zoo.__main__ import _generator
from lego_serve.zoo.export import WEIGHTS
from lego_serve.zoo.train.frozen_family import FrozenFamily
from lego_serve.zoo.turbo import (
    MAX_BYTES,
    NODES,
    SIGMAS,
    Lesson,
    TurboPlan,
    TurboTrainer,
    add_tier,
    export_turbo,
    student_loss,
    trained_average,
)
from tests.support.students.derived import derive
from tests.support.students.tiers import TURBO, with_turbo


class Straight(torch.nn.Module):
    """A student that says the velocity it was made with, whatever it sees."""

    def __init__(self, velocity: torch.Tensor) -> None:
        super().__init__()
        self.velocity = velocity

    def forward(self, x: torch.Tensor, *_: object, return_dict: bool) -> tuple[torch.Tensor]:
        """The velocity."""
        return (self.velocity.expand_as(x),)


@pytest.mark.parametrize("on_own", [False, True])
def test_a_student_on_the_teachers_trajectory_has_nothing_to_learn(*, on_own: bool) -> None:
    """On a straight one; any other velocity is off by its square."""
    velocity = torch.randn(1, 8, 4, 4, generator=torch.Generator().manual_seed(0)).half().float()
    nodes = torch.stack([sigma * velocity.expand(3, -1, -1, -1) for sigma in SIGMAS])
    lesson = Lesson(nodes, torch.zeros(3, 32, 192), torch.zeros(3, 192))
    assert student_loss(Straight(velocity), lesson, [0, 2], on_own=on_own) < 1e-9  # type: ignore[arg-type]
    off = student_loss(Straight(velocity + 1), lesson, [0, 2], on_own=False)  # type: ignore[arg-type]
    torch.testing.assert_close(off, torch.tensor(1.0))


def test_a_lesson_goes_on_and_a_student_is_served_in_its_tier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two updates, and none once its time is over; the folder's tier runs the four steps that were learned."""
    monkeypatch.setattr("lego_serve.zoo.turbo.CHUNK_ROWS", 2 * 64)
    monkeypatch.setattr("lego_serve.zoo.turbo.SIDES", (128,))
    teacher, ticks = FrozenFamily.load(), iter(range(100))
    trainer = TurboTrainer(tmp_path, teacher, TurboPlan(3.5, updates=4), lambda: float(next(ticks)))
    first = trainer.run()
    assert trainer.lessons[0].latents.shape == (len(NODES), 2, 8, 16, 16)
    assert not torch.equal(first["proj_out.weight"], teacher.transformer.state_dict()["proj_out.weight"])
    again = TurboTrainer(tmp_path, teacher, TurboPlan(3.5, updates=4), lambda: float(next(ticks))).run()
    assert torch.equal(again["proj_out.weight"], first["proj_out.weight"]), "its time was over"
    average = trained_average(tmp_path)
    assert torch.equal(average["proj_out.weight"], first["proj_out.weight"])
    assert export_turbo(average, tmp_path / "model") < MAX_BYTES
    run = read_book(str(tmp_path / "model")).choose("turbo", "euler", 4, 128, 128)
    assert run is not None
    assert run.grid.sigmas == SIGMAS


def changed_lego_tiny() -> dict[str, torch.Tensor]:
    """Weights that are all off lego-tiny's a little, in place of a student's."""
    [teacher] = (WEIGHTS / "transformer").glob("*.safetensors")
    rng = torch.Generator().manual_seed(0)
    return {
        name: weight.float() + 0.01 * torch.randn(weight.shape, generator=rng)
        for name, weight in load_file(teacher).items()
    }


def test_a_student_becomes_a_tier_for_the_steps_that_the_others_are_for(tmp_path: Path) -> None:
    """In place of an older student's, with what the judge counted; the other tiers stay as they are."""
    base = Path(shutil.copytree(WEIGHTS, tmp_path / "lego-tiny"))
    before = from_json(json.loads((base / "tiers.json").read_text())).without_checkpoints()
    student = tmp_path / "lego-tiny-turbo"
    export_turbo(changed_lego_tiny(), student)
    for quality in ({}, {"judged": {"128": {"one": {"right": 9, "of": 10}}}}):
        assert add_tier(quality, base, student) == (20, 28)
    book = from_json(json.loads((base / "tiers.json").read_text()))
    assert book.without_checkpoints().runs == before.runs
    checkpoint = Checkpoint("builtin:lego-tiny-turbo", denoiser_digest(student), guidance=1.0)
    assert book.checkpoints == {"turbo": checkpoint}
    for steps in (20, 28):
        run = book.choose("turbo", "euler", steps, 256, 256)
        assert run is not None
        assert (run.grid.sigmas, run.quality["judged"]["128"]["one"]["of"]) == (SIGMAS, 10)  # type: ignore[index]
    config = base / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text().replace("3.0", "2.0"))
    with pytest.raises(ValueError, match="tuned on other weights"):
        add_tier({}, base, student)


def test_a_student_that_takes_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And so is a folder in which nothing was trained."""
    monkeypatch.setattr("lego_serve.zoo.turbo.MAX_BYTES", 1_000_000)
    with pytest.raises(CheckpointError, match="bytes, at most 1000000 are allowed"):
        export_turbo(changed_lego_tiny(), tmp_path)
    with pytest.raises(CheckpointError, match=r"turbo\.pt is missing: nothing was trained"):
        trained_average(tmp_path)


def test_the_judge_sees_the_tier_as_it_sees_the_student(tiny_folder: Path, tmp_path: Path) -> None:
    """Its guidance is its own, whatever is asked; the base's images are others."""
    base = Path(shutil.copytree(tiny_folder, tmp_path / "base"))
    student = derive(base, tmp_path / "student")
    with_turbo(base, student)
    alone = TierBook((replace(TURBO, steps=4, checkpoint=None),), weights=denoiser_digest(student))
    write_book(alone, student / "tiers.json")
    ours = _generator(str(base), 20, 4.0, "turbo")(["a red circle"], [3], 96)
    assert np.array_equal(ours, _generator(str(student), 4, 1.0, "turbo")(["a red circle"], [3], 96))
    assert not np.array_equal(ours, _generator(str(base), 20, 4.0, "fast")(["a red circle"], [3], 96))
