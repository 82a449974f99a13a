"""Which texts of a client write a whole number."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.whole_numbers import whole_number


@given(st.integers(0, 10**18 - 1))
def test_what_a_number_is_written_as_is_read_as_it(number: int) -> None:
    """Up to 18 digits."""
    assert whole_number(str(number)) == number


@given(st.text())
def test_any_text_is_a_small_number_or_none(text: str) -> None:
    """And never raises."""
    number = whole_number(text)
    assert number is None or (0 <= number < 10**18 and text.isascii())


@pytest.mark.parametrize("text", ["", "9" * 19, "9" * 5000, "\u0663", "1\u0663", "\u00b2", "+1", " 1", "1\n", "1_0"])
def test_other_texts_are_none(text: str) -> None:
    """Digits of other scripts, signs, blanks and what `int` raises at."""
    assert whole_number(text) is None
