"""Suggestions of known names for an unknown one."""

import re
from collections.abc import Collection, Iterable
from difflib import get_close_matches
from itertools import islice

PLAIN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}")
COMPARED = 1000  # known names that an unknown one is compared with at most, to bound the cost
LISTED = 6  # known names that a message lists at most


def closest(word: str, known: Iterable[str]) -> str | None:
    """Return the known name closest to a word, or None if none is close."""
    return next(iter(get_close_matches(word, list(known), 1)), None)


def did_you_mean(what: str, name: str, known: Collection[str], hint: str = "") -> str:
    """Return an error message for an unknown name: it ends in the closest known name, else all of a few, else a hint.

    The message repeats the name only if it is a plain word.
    """
    if PLAIN.fullmatch(name) is None:
        near = None
        message = f"There is no {what} of this name"
    else:
        same_initial_first = sorted(known, key=lambda other: (other[:1] != name[:1], other))
        near = closest(name, islice(same_initial_first, COMPARED))
        message = f"There is no {what} {name}"
    if near:
        return f"{message}; did you mean {near}?"
    if 0 < len(known) <= LISTED:
        return f"{message}; there is {', '.join(sorted(known))}."
    return f"{message}; {hint}." if hint else f"{message}."
