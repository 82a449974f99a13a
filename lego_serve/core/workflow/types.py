"""Checks plain values against the types of a workflow."""

import math
import re

from lego_serve.core.tiers.book import TIERS

SURROGATE = re.compile("[\ud800-\udfff]")
CHOICES = {"sampler": ("euler", "dpmpp_2m", "lcm", "scm"), "tier": TIERS}  # types with a fixed set of values
PYTHON_TYPES = {"text": str, "int": int, "float": float, "bool": bool, **dict.fromkeys(CHOICES, str)}


def as_type(value: object, kind: str) -> object:
    """Return the value as this type; an int becomes a float if the type is float.

    Raises TypeError for a value of another type and ValueError for an invalid one; the messages are written to follow
    the name of the value.
    """
    if kind == "float" and type(value) is int:
        try:
            value = float(value)
        except OverflowError:
            value = math.inf
    if type(value) is not PYTHON_TYPES.get(kind):  # not isinstance(), to which a bool is an int
        raise TypeError(f"must be {article(kind)}, not {article(_kind_of(value))}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("must be a finite number")
    if kind in CHOICES and value not in CHOICES[kind]:
        raise ValueError(f"must be one of {', '.join(CHOICES[kind])}")
    if isinstance(value, str) and not is_unicode(value):
        raise ValueError("must be valid Unicode")
    return value


def is_unicode(text: str) -> bool:
    """Return whether a text can be encoded; one with a lone surrogate cannot."""
    return text.isascii() or SURROGATE.search(text) is None


def article(kind: str) -> str:
    """Return the name of a type with its article, for a sentence."""
    name = kind.replace("_", " ")
    if name in ("text", "conditioning", "nothing") or name.endswith(("latents", "adapters", "controls")):
        return name
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def _kind_of(value: object) -> str:
    names = {str: "text", type(None): "nothing", dict: "mapping"}
    return names.get(type(value), type(value).__name__)
