"""Held-out edits, and the judgement of those that read activations."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from lego_serve.core.editing.reuse import Quality
from lego_serve.zoo.__main__ import app
from lego_serve.zoo.judge.edits import FULL, EditMethod, edit_table, judge_edits
from lego_serve.zoo.world.edit_tasks import held_out_edits, place_mask
from lego_serve.zoo.world.scenes import PLACES


def test_held_out_edits_are_the_same_every_time_and_change_one_thing() -> None:
    """Colour and shape, in its place; neither what was nor what is to be was ever trained on."""
    first, again = held_out_edits(5, 128), held_out_edits(5, 128)
    for task, same in zip(first, again, strict=True):
        assert torch.equal(task.template, same.template)
        assert (task.before, task.after, task.another) == (same.before, same.after, same.another)
        [was], [to_be] = task.before.scene.things, task.after.scene.things
        assert (was.place, was.size) == (to_be.place, to_be.size)
        assert task.another.scene.ground == task.before.scene.ground
        assert was.colour != to_be.colour
        assert was.shape != to_be.shape
        assert task.before.scene.is_held_out
        assert task.after.scene.is_held_out


@pytest.mark.parametrize("place", PLACES)
def test_masks_cover_about_a_ninth(place: str) -> None:
    """What may stand in a place, and little more."""
    assert 0.08 < float(place_mask(place, 128).float().mean()) < 0.15


def test_the_command_judges_the_ways_that_are_named(tmp_path: Path) -> None:
    """Beside the full computation; a name of none is refused with those there are, and so is a sheet of others."""
    words = ["judge-edits", "--side", "128", "--count", "1", "--json", str(tmp_path / "found.json")]
    done = CliRunner().invoke(app, [*words, "--way", "balanced, empty, int8"])
    assert done.exit_code == 0, done.output
    assert set(json.loads((tmp_path / "found.json").read_text())["128"]) == {"full", "balanced, empty, int8"}
    for more in (["--way", "best"], ["--way", "balanced, empty, int8", "--sheet", str(tmp_path / "sheet.png")]):
        refused = CliRunner().invoke(app, [*words, *more])
        assert refused.exit_code == 2
        assert "high, caption, int8" in " ".join(refused.output.replace("│", " ").split())


def test_reading_leaves_edits_alike_and_all_else_as_it_was() -> None:
    """A handful with the model that ships; a caption of the template makes them more alike than none."""
    ways = (EditMethod(Quality.EXACT), EditMethod(Quality.HIGH), EditMethod(Quality.HIGH, "caption"))
    verdicts = list(judge_edits("builtin:lego-tiny", 128, 3, ways))
    table = edit_table(verdicts)
    assert set(table) == {str(way) for way in (FULL, *ways)}
    assert table["full"]["ssim_mean"] == pytest.approx(1)
    assert table["high, caption, int8"]["ssim_mean"] > table["high, empty, int8"]["ssim_mean"]
    for row in table.values():
        assert row["of"] == row["equal_outside"] == 3
        assert row["ssim_mean"] > 0.9
        assert row["right"] >= 2
