"""Whole numbers in text that a client made: counts, cursors, versions."""

import re

WHOLE = re.compile(r"[0-9]{1,18}")  # what 64 bits hold; `int` itself raises ValueError beyond 4,300 digits


def whole_number(text: str) -> int | None:
    """Return the number that ASCII digits alone write, at most 18 of them; None for any other text.

    ``str.isdecimal`` is no such test: it takes the digits of every script, and any number of them.
    """
    return int(text) if WHOLE.fullmatch(text) else None
