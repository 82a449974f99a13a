"""Complaints about unknown names: repeated where they are plain words, with the nearest known one."""

from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.suggest import LISTED, did_you_mean


def test_the_nearest_is_named_or_all_of_a_few_or_a_hint() -> None:
    """In this order."""
    assert (
        did_you_mean("adapter", "strips", ["stripes", "frame"]) == "There is no adapter strips; did you mean stripes?"
    )
    assert did_you_mean("adapter", "zzz", ["stripes", "frame"]) == "There is no adapter zzz; there is frame, stripes."
    many = [f"style-{i}" for i in range(LISTED + 1)]
    assert did_you_mean("adapter", "zzz", many, "ask for the list") == "There is no adapter zzz; ask for the list."
    assert did_you_mean("adapter", "zzz", []) == "There is no adapter zzz."


def test_the_nearest_is_found_among_very_many() -> None:
    """Those that begin alike are compared first."""
    many = [f"{letter}{i}" for letter in "abc" for i in range(10_000)]
    assert did_you_mean("adapter", "stripe", [*many, "stripes"]) == "There is no adapter stripe; did you mean stripes?"


@given(st.text(max_size=80), st.sets(st.from_regex(r"[a-z0-9_-]{1,64}", fullmatch=True), max_size=12))
def test_nothing_but_plain_words_comes_back(name: str, known: set[str]) -> None:
    """Whatever was asked for."""
    said = did_you_mean("model", name, known)
    assert said.startswith("There is no model ")
    assert all(letter.isascii() and (letter.isalnum() or letter in " ;,.?_-") for letter in said)
