"""How an unknown name is told: as it was said where it is a plain word, and with the nearest known one."""

import re
from collections.abc import Collection
from difflib import get_close_matches
from itertools import islice

PLAIN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}")
COMPARED = 1000  # known names, so that asking for an unknown one stays cheap
LISTED = 6


def unknown(what: str, name: str, known: Collection[str], hint: str = "") -> str:
    """The complaint about a name that is none: with the nearest known one, or else with all of a few, or a hint."""
    if PLAIN.fullmatch(name) is None:
        near: list[str] = []
        said = f"There is no {what} of this name"
    else:
        alike = sorted(known, key=lambda other: (other[:1] != name[:1], other))
        near = get_close_matches(name, list(islice(alike, COMPARED)), 1)
        said = f"There is no {what} {name}"
    if near:
        return f"{said}; did you mean {near[0]}?"
    if 0 < len(known) <= LISTED:
        return f"{said}; there is {', '.join(sorted(known))}."
    return f"{said}; {hint}." if hint else f"{said}."
