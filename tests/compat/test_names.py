"""Names as other tools write them."""

import pytest

from lego_serve.compat.names import find, resolve, stem, unknown
from lego_serve.compat.task import Refused


@pytest.mark.parametrize(
    ("name", "bare"),
    [
        ("a.safetensors", "a"),
        ("folder/a.ckpt", "a"),
        ("folder\\b.PT", "b"),
        ("sd3.5_medium.safetensors [abc1234567]", "sd3.5_medium"),
        ("v1.5", "v1.5"),
        ("", ""),
    ],
)
def test_a_stem_is_what_people_mean(name: str, bare: str) -> None:
    """Folders, the ending of a file of weights and A1111's hash are left out; other dots stay."""
    assert stem(name) == bare


def test_the_very_name_goes_before_one_like_it() -> None:
    """Case counts only where both are there."""
    assert find("a", ["A", "a"]) == "a"
    assert find("A.safetensors", ["b", "a"]) == "a"
    assert find("c", ["a"]) is None


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    """Or with all, if they are few; a name that is no word is not repeated."""
    assert resolve("model", "tiny", {"tiny": "lego-tiny"}, "model") == "lego-tiny"
    with pytest.raises(Refused, match=r"There is no model tini; did you mean tiny\?"):
        resolve("model", "tini", {"tiny": "lego-tiny"}, "model")
    assert unknown("adapter", "x", []) == "There is no adapter x; this server has none of them."
    assert "<" not in unknown("adapter", "<b>", ["a"])
