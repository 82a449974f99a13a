"""Books of tiers: what runs in place of which steps, and that nothing else does."""

import json
from typing import Any

import pytest

from lego_serve.core.tiers.block_rows import BlockRows
from lego_serve.core.tiers.book import TierBook, TierRun, TierUse, cheaper
from lego_serve.core.tiers.book_json import from_json, to_json
from lego_serve.core.tiers.grids import Grid
from lego_serve.core.tiers.own_rows import OwnRows
from lego_serve.errors import RequestError

GRID = Grid("euler", (1.0, 0.5, 0.0))
HIGH = TierRun("high", "euler", 4, (96 * 96, 128 * 128), GRID, {"psnr_mean": 48.5})
FAST = TierRun("fast", "euler", 8, (96 * 96, 128 * 128), GRID, own_rows=OwnRows(0.5, 2, 4))
BLOCKS = BlockRows(((1.0, 1.0, 1.0), (1.0, 0.5, 0.25)))
PRUNED = TierRun("balanced", "euler", 4, (96 * 96, 128 * 128), GRID, block_rows=BLOCKS)
BOOK = TierBook((HIGH, FAST), weights="abc")


def test_a_tier_runs_what_was_tuned_for_the_steps_and_the_size() -> None:
    """The default is all of the work, for any steps."""
    assert BOOK.choose("high", "euler", 4, 128, 128) is HIGH
    assert BOOK.choose(None, "euler", 33, 4096, 16) is None
    assert BOOK.choose("exact", "heun", 1, 1, 1) is None
    assert BOOK.names == ("exact", "high", "fast")


def test_a_model_may_have_another_default() -> None:
    """For requests that name no tier."""
    book = TierBook((HIGH,), "high")
    assert book.choose(None, "euler", 4, 96, 128) is HIGH
    with pytest.raises(ValueError, match="the tier fast is not tuned, there is exact, high"):
        TierBook((HIGH,), "fast")


@pytest.mark.parametrize(
    ("tier", "sampler", "steps", "side", "said"),
    [
        ("turbo", "euler", 4, 128, "there is exact, high, fast"),
        ("high", "euler", 5, 128, "not tuned for 5 steps of euler at 128x128; it is for 4 steps of euler from 9216"),
        ("high", "dpmpp_2m", 4, 128, "not tuned for 4 steps of dpmpp_2m"),
        ("high", "euler", 4, 256, "at 256x256"),
    ],
)
def test_what_was_not_tuned_is_an_error(tier: str, sampler: str, steps: int, side: int, said: str) -> None:
    """Never another tier; the message says what there is."""
    with pytest.raises(RequestError, match=said) as caught:
        BOOK.choose(tier, sampler, steps, side, side)
    assert (caught.value.param, caught.value.status, caught.value.code) == ("tier", 400, "no_such_tier")


def test_a_book_is_read_as_it_was_written() -> None:
    """The digest of the weights with it; which tier is the default is the configuration's to say."""
    book = TierBook((HIGH, FAST, PRUNED), weights="abc")
    assert from_json(json.loads(json.dumps(to_json(book)))) == book
    text = json.dumps(to_json(BOOK))
    assert from_json(json.loads(text), "fast").default == "fast"


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"runs": [{}]},
        {"runs": 3},
        {"runs": [to_json(BOOK)["runs"][0] | {"tier": "exact"}]},
        {"runs": [7]},
        {"runs": [to_json(TierBook((PRUNED,)))["runs"][0] | {"block_rows": [[1.0, 0.5]]}]},
        {"runs": [to_json(TierBook((PRUNED,)))["runs"][0] | {"block_rows": [[1.0, 1.5]] * 2}]},
        {"runs": [to_json(TierBook((PRUNED,)))["runs"][0] | {"own_rows": {"share": 0.5, "warm": 4, "every": 8}}]},
    ],
)
def test_a_damaged_book_is_refused(change: dict[str, Any]) -> None:
    """Whatever is wrong with it."""
    with pytest.raises(ValueError, match=r"tier|rows per block"):
        from_json(to_json(BOOK) | change)


def test_a_book_of_other_weights_is_refused() -> None:
    """One without a digest goes with any."""
    BOOK.check("abc")
    TierBook().check("anything")
    with pytest.raises(ValueError, match="tuned on other weights"):
        BOOK.check("abd")


def test_a_run_knows_its_share_of_the_work() -> None:
    """Of the evaluations, and of the rows of their blocks."""
    assert HIGH.work_share == 0.5
    assert PRUNED.work_share == pytest.approx(0.5 * (3 + 1.75) / 6)


def test_a_use_knows_what_was_saved() -> None:
    """Of the evaluations; the tiers below one end at a floor."""
    assert TierUse("high", 14, 28).saved_ratio == 0.5
    assert cheaper("exact", "balanced") == ("high", "balanced")
    assert cheaper("fast", "high") == ()
