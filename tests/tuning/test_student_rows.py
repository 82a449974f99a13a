"""A row of a table that other weights draw."""

import shutil
from pathlib import Path

import numpy as np

from lego_serve.core.tiers.grids import Grid, shifted_sigmas
from lego_serve.engine.offline import OfflinePipeline
from lego_serve.models.registry import ModelSpec
from lego_serve.tuning.quality import Row, draw_row
from lego_serve.tuning.trajectories import Calibration
from tests.support.students.derived import derive


def test_a_student_draws_its_own_image_in_the_models_place(tiny_folder: Path, tmp_path: Path) -> None:
    """On the row's grid, without a second branch, as it would as a model of its own; and no other than the model's."""
    base = Path(shutil.copytree(tiny_folder, tmp_path / "base"))
    folders = {"model": base, "student": derive(base, tmp_path / "student")}
    model, student = (
        OfflinePipeline.load(ModelSpec(name, str(folder), dtype="float32", max_sequence_length=0))
        for name, folder in folders.items()
    )
    grid = Grid("euler", shifted_sigmas(3, 3.0, 1 / 1000))
    images = Calibration(("a red circle",), 96, 96, 4.0)
    [drawn] = draw_row(model, images, Row("turbo", grid, 3, student=student, guidance=1.0), steps=6)
    [own] = draw_row(model, images, Row("own", grid, 3, guidance=1.0), steps=6)
    alone = student.generate(
        images.prompts, width=96, height=96, steps=6, guidance=1.0, seeds=[images.first_seed], grid=grid
    )
    assert np.array_equal(drawn, alone[0].numpy())
    assert not np.array_equal(drawn, own)
