"""Tiers that run other weights than their model's: what a book says of them."""

import json
from dataclasses import replace
from typing import Any

import pytest

from lego_serve.core.tiers.book import TierBook
from lego_serve.core.tiers.book_json import from_json, to_json
from lego_serve.core.tiers.checkpoints import Checkpoint, refuse_untuned
from lego_serve.errors import RequestError
from tests.support.students.tiers import BOOK, FAST, STUDENT, TURBO


def test_a_book_is_read_with_its_checkpoints() -> None:
    """As they were written, and with the guidance that is asked where a run has none of its own."""
    asked = TierBook((replace(TURBO, checkpoint=replace(STUDENT, guidance=None)),))
    for book in (BOOK, asked):
        assert from_json(json.loads(json.dumps(to_json(book)))) == book
    assert BOOK.checkpoints == {"turbo": STUDENT}


def test_a_tier_runs_one_checkpoint() -> None:
    """In all of its runs; a node is of one tier."""
    other = replace(TURBO, steps=28, checkpoint=Checkpoint("/students/other"))
    for second in (other, replace(other, checkpoint=None)):
        for runs in ((TURBO, second), (second, TURBO)):
            with pytest.raises(ValueError, match="the tier turbo has runs of several checkpoints"):
                TierBook(runs)


def test_a_book_can_be_without_those_of_checkpoints() -> None:
    """Unless one of them is the default."""
    assert BOOK.without_checkpoints().names == ("exact", "fast")
    with pytest.raises(ValueError, match="the tier turbo runs other weights"):
        replace(BOOK, default="turbo").without_checkpoints()


def test_what_computes_on_a_checkpoint_has_its_runs_alone() -> None:
    """They are what it runs for requests that name no tier, and its weights are those of the checkpoint."""
    own = BOOK.of_checkpoint("turbo")
    assert own.choose(None, "euler", 20, 128, 128) == TURBO
    assert own.names == ("exact", "turbo")
    own.check("abc")
    with pytest.raises(ValueError, match="tuned on other weights"):
        own.check("abd")


@pytest.mark.parametrize("change", [{"path": ""}, {"guidance": -1}, {"path": None, "weights": "a", "guidance": "b"}])
def test_a_damaged_checkpoint_is_refused(change: dict[str, Any]) -> None:
    """As any file that cannot be read."""
    written = to_json(BOOK)
    written["runs"][1]["checkpoint"] |= change
    with pytest.raises(ValueError, match=r"checkpoint|float|tiers"):
        from_json(written)


def test_what_a_checkpoint_was_not_tuned_with_is_refused_by_name() -> None:
    """All of it at once; what every request has is no matter."""
    refuse_untuned("turbo", ["cond", "negative", "steps"])
    with pytest.raises(RequestError, match=r"Tier turbo .* not tuned with adapters and edits; leave") as caught:
        refuse_untuned("turbo", ["edit", "adapters", "cond"])
    assert (caught.value.param, caught.value.code) == ("tier", "no_such_tier")
    assert FAST.checkpoint is None


def test_only_a_guidance_above_one_has_a_second_branch() -> None:
    """None is whatever is asked."""
    assert [Checkpoint("a", "", guidance).is_unguided for guidance in (0.0, 1.0, 1.5, None)] == [1, 1, 0, 0]
    Checkpoint("a").check("anything")
    with pytest.raises(ValueError, match="a has other weights than those that were tuned"):
        Checkpoint("a", "x").check("y")
