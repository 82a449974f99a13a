"""Held-out edits, and the judgement of those that read activations."""

import pytest
import torch

from lego_serve.core.reuse import Quality
from lego_serve.zoo.edit_tasks import held_out_edits, place_mask
from lego_serve.zoo.judge_edits import FULL, Way, edit_table, judge_edits
from lego_serve.zoo.world import PLACES


def test_held_out_edits_are_the_same_every_time_and_change_one_thing() -> None:
    """Colour and shape, in its place; neither what was nor what is to be was ever trained on."""
    first, again = held_out_edits(5, 128), held_out_edits(5, 128)
    for task, same in zip(first, again, strict=True):
        assert torch.equal(task.template, same.template)
        assert (task.before, task.after) == (same.before, same.after)
        [was], [to_be] = task.before.scene.things, task.after.scene.things
        assert (was.place, was.size) == (to_be.place, to_be.size)
        assert was.colour != to_be.colour
        assert was.shape != to_be.shape
        assert task.before.scene.is_held_out
        assert task.after.scene.is_held_out


@pytest.mark.parametrize("place", PLACES)
def test_masks_cover_about_a_ninth(place: str) -> None:
    """What may stand in a place, and little more."""
    assert 0.08 < float(place_mask(place, 128).float().mean()) < 0.15


def test_reading_leaves_edits_alike_and_all_else_as_it_was() -> None:
    """A handful with the model that ships; the table has a row for each way."""
    ways = (Way(Quality.EXACT), Way(Quality.HIGH, coding="int8"))
    verdicts = list(judge_edits("builtin:lego-tiny", 128, 3, ways))
    table = edit_table(verdicts)
    assert set(table) == {str(way) for way in (FULL, *ways)}
    assert table["full"]["ssim_mean"] == pytest.approx(1)
    for row in table.values():
        assert row["of"] == row["equal_outside"] == 3
        assert row["ssim_mean"] > 0.9
        assert row["right"] >= 2
