"""Bounds a JSON text before anything reads it: depth, values, fields, names, escapes, and bytes outside of strings.

A text within the bounds is read in time linear in its length, whatever it holds; a few kilobytes of brackets cost a
parser more than megabytes of base64. Strings are long only as values: no name of a field is.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeAlias

Buffer: TypeAlias = bytes | bytearray
Path: TypeAlias = Sequence[int | str]

QUOTE = ord('"')
BACKSLASH = ord("\\")
CHUNK_BYTES = 65_536  # what one call of the regular expression passes over, in which no other thread runs
STRING_PART = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
BRACKETS = re.compile(rb"[\[\]{}]")
SHORT_STRING_BYTES = 4096  # longer ones are left out of the outline


@dataclass(frozen=True, slots=True)
class JsonLimits:
    """What a JSON text may hold.

    ``other_bytes`` counts all that is outside of strings, such as numbers and spaces, ``name_bytes`` the names of all
    fields.  An escape costs many times what a plain byte does: there may be a backslash for each slash of the largest
    base64, and a ``\\u`` for each character of the longest prompts.
    """

    depth: int = 32
    values: int = 4096
    fields: int = 1024
    other_bytes: int = 1_048_576
    name_bytes: int = 262_144
    backslashes: int = 1_048_576
    unicode_escapes: int = 262_144


LIMITS = JsonLimits()
SHORT_BYTES = 4000  # a text of so few can exceed no limit but that of depth, and has no long string


class JsonLimitExceeded(Exception):
    """A JSON text is over a limit; the message says which, and ``too_large`` whether it is one of bytes."""

    def __init__(self, message: str, *, too_large: bool = False) -> None:
        super().__init__(message)
        self.message, self.too_large = message, too_large


@dataclass(frozen=True, slots=True)
class _RepeatedField:
    """Stands in place of an object that has a field twice."""

    name: str


def outline(raw: Buffer, limits: JsonLimits = LIMITS) -> bytes:
    """Return a JSON text with its long strings emptied.  Raises JsonLimitExceeded.

    Nothing is checked but the bounds: a text that is no JSON has an outline that is none either.
    """
    if len(raw) <= SHORT_BYTES and raw.count(b"{") + raw.count(b"[") <= limits.depth and limits is LIMITS:
        return bytes(raw)
    _check_escapes(raw, limits)
    parts: list[bytes] = []
    others: list[bytes] = []
    position, other_bytes, name_bytes = 0, 0, 0
    while True:
        start = raw.find(b'"', position, position + limits.other_bytes - other_bytes + 1)
        length = (len(raw) if start < 0 else start) - position
        other_bytes += length
        if other_bytes > limits.other_bytes:  # before any copy
            message = f"The JSON has more than {limits.other_bytes} bytes outside of strings."
            raise JsonLimitExceeded(message, too_large=True)
        other = bytes(raw[position : position + length])
        others.append(other)
        parts.append(other)
        if start < 0:
            break
        if len(others) > 2 * limits.values:  # a value has at most one string more, its name
            raise JsonLimitExceeded(f"The JSON has more than {limits.values} values.")
        end = _end_of_string(raw, start + 1)
        is_name = _is_name(raw, end)
        name_bytes += (end - start - 1) * is_name
        if name_bytes > limits.name_bytes:
            message = f"The JSON has more than {limits.name_bytes} bytes in the names of fields."
            raise JsonLimitExceeded(message, too_large=True)
        if is_name or end - start <= SHORT_STRING_BYTES:
            parts.append(bytes(raw[start : end + 1]))
        else:
            parts.append(b'""' if end < len(raw) else b'"')
        position = end + 1
    _check_structure(b" ".join(others), limits)
    return b"".join(parts)


def repeated_field(text: bytes) -> Path | None:
    """Return the path of the first field that an object of an outline has twice; None where there is none.

    Raises ValueError where it is no JSON.
    """
    return _find_repeated(DECODER.decode(text.decode()), ())


def _end_of_string(raw: Buffer, start: int) -> int:
    """Return where the string ends whose content starts here; the end of the text where it is not closed."""
    end = raw.find(b'"', start)
    if end < 0:
        return len(raw)
    if raw[end - 1] != BACKSLASH:
        return end
    position = start
    while True:
        match = STRING_PART.match(raw, position, position + CHUNK_BYTES)
        reached = position if match is None else match.end()
        if reached >= len(raw) or raw[reached] == QUOTE:
            return reached
        if reached == position:  # a backslash with nothing behind it
            return len(raw)
        position = reached


def _is_name(raw: Buffer, end: int) -> bool:
    """Return whether a colon follows the string that ends here; many spaces may hide one."""
    following = bytes(raw[end + 1 : end + 65])
    return following.lstrip(b" \t\r\n")[:1] == b":" or (len(following) == 64 and not following.strip(b" \t\r\n"))


def _check_escapes(raw: Buffer, limits: JsonLimits) -> None:
    """Raise JsonLimitExceeded for too many backslashes, wherever they are, or too many that a ``u`` follows."""
    backslashes = unicode_escapes = 0
    for start in range(0, len(raw), CHUNK_BYTES):
        end = start + CHUNK_BYTES
        found = raw.count(b"\\", start, end)
        if not found:
            continue
        backslashes += found
        if backslashes > limits.backslashes:
            message = f"The JSON has more than {limits.backslashes} backslashes."
            raise JsonLimitExceeded(message, too_large=True)
        unicode_escapes += raw.count(b"\\u", start, end + 1)  # one may begin in this chunk and end in the next
        if unicode_escapes > limits.unicode_escapes:
            message = f"The JSON has more than {limits.unicode_escapes} escapes that begin with \\u."
            raise JsonLimitExceeded(message, too_large=True)


def _check_structure(other: bytes, limits: JsonLimits) -> None:
    """Raise JsonLimitExceeded for what is outside of strings."""
    depth = 0
    for bracket in islice(BRACKETS.finditer(other), 2 * limits.values):
        depth += 1 if bracket[0] in b"[{" else -1
        if depth > limits.depth:
            raise JsonLimitExceeded(f"The JSON is nested deeper than {limits.depth} levels.")
    if other.count(b",") + other.count(b"[") + other.count(b"{") + 1 > limits.values:
        raise JsonLimitExceeded(f"The JSON has more than {limits.values} values.")
    if other.count(b":") > limits.fields:
        raise JsonLimitExceeded(f"The JSON has more than {limits.fields} fields.")


def _object_or_repeated(pairs: list[tuple[str, Any]]) -> dict[str, Any] | _RepeatedField:
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if name in fields:
            return _RepeatedField(name)
        fields[name] = value
    return fields


DECODER = json.JSONDecoder(object_pairs_hook=_object_or_repeated)  # which takes longer to make than most bodies to read


def _find_repeated(value: Any, path: Path) -> Path | None:
    if isinstance(value, _RepeatedField):
        return (*path, value.name)
    parts: Any = ()
    if isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, list):
        parts = enumerate(value)
    for key, part in parts:
        repeated = _find_repeated(part, (*path, key))
        if repeated is not None:
            return repeated
    return None
