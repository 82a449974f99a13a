"""The distillation of lego-tiny into four steps."""

from pathlib import Path

import pytest
import torch

from lego_serve.models.tier_files import read_book
from lego_serve.zoo.train.frozen_family import FrozenFamily
from lego_serve.zoo.turbo import NODES, SIGMAS, Lesson, TurboPlan, TurboTrainer, export_turbo, student_loss


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
    """Two updates, then two more from where they ended; the folder's tier runs the four steps that were learned."""
    monkeypatch.setattr("lego_serve.zoo.turbo.CHUNK_ROWS", 2 * 64)
    monkeypatch.setattr("lego_serve.zoo.turbo.SIDES", (128,))
    teacher, ticks = FrozenFamily.load(), iter(range(100))
    trainer = TurboTrainer(tmp_path, teacher, TurboPlan(4.5, updates=4), lambda: float(next(ticks)))
    first = trainer.run()
    assert trainer.lessons[0].latents.shape == (len(NODES), 2, 8, 16, 16)
    assert not torch.equal(first["proj_out.weight"], teacher.transformer.state_dict()["proj_out.weight"])
    again = TurboTrainer(tmp_path, teacher, TurboPlan(4.5, updates=4), lambda: float(next(ticks))).run()
    assert torch.equal(again["proj_out.weight"], first["proj_out.weight"]), "its time was over"
    export_turbo(first, tmp_path / "model")
    run = read_book(str(tmp_path / "model")).choose("turbo", "euler", 4, 128, 128)
    assert run is not None
    assert run.grid.sigmas == SIGMAS
