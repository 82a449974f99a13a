"""Suggests the known name that an unknown one was probably meant to be."""

import re
from collections.abc import Collection, Iterable
from difflib import get_close_matches
from itertools import islice

PLAIN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}")
COMPARED = 1000  # known names, so that asking for an unknown one stays cheap
LISTED = 6


def closest(word: str, known: Iterable[str]) -> str | None:
    """The known name most like a word; None where none is much like it."""
    return next(iter(get_close_matches(word, list(known), 1)), None)


def did_you_mean(what: str, name: str, known: Collection[str], hint: str = "") -> str:
    """The complaint about an unknown name, with the closest known one, or else all of a few, or a hint.

    The name is repeated only where it is a plain word.
    """
    if PLAIN.fullmatch(name) is None:
        near = None
        message = f"There is no {what} of this name"
    else:
        alike = sorted(known, key=lambda other: (other[:1] != name[:1], other))
        near = closest(name, islice(alike, COMPARED))
        message = f"There is no {what} {name}"
    if near:
        return f"{message}; did you mean {near}?"
    if 0 < len(known) <= LISTED:
        return f"{message}; there is {', '.join(sorted(known))}."
    return f"{message}; {hint}." if hint else f"{message}."
