"""Joins the form fields that SDKs write for a list of objects: ``lora[][name]``, ``lora[0].name``, ``lora.0.name``.

They become the JSON that the field takes as text, so that there is one way to check it. Each value is bounded before
it is parsed, and goes into that text as it was written: what it gives twice is found there.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from lego_serve.errors import RequestError
from lego_serve.gateway.requests.json_body import bounded

LIST_FIELDS = ("lora",)
MAX_LIST_BYTES = 64 * 1024  # of all fields of one list, as of the one text field that they stand for
# The field, an index or nothing, and the part of the entry.
NESTED = re.compile(
    r"(?P<field>lora)(?:\[(?P<index>\d{0,3})\]|\.(?P<place>\d{1,3}))?(?:\[(?P<part>[a-z]{1,16})\]|\.(?P<dotted>[a-z]{1,16}))?",
    re.ASCII,
)
NUMBER = re.compile(r"-?(?:0|[1-9]\d{0,15})(?:\.\d{1,30})?(?:[eE][+-]?\d{1,4})?", re.ASCII)

# An entry that is given whole, as JSON, or the JSON of its parts by name.
Entry: TypeAlias = str | dict[str, str]


def nested_name(name: str) -> re.Match[str] | None:
    """Return the parts of a nested field's name; None for any other name."""
    return None if name in LIST_FIELDS else NESTED.fullmatch(name)


def join_nested(nested: Iterable[tuple[str, str]], fields: Mapping[str, Any]) -> dict[str, str]:
    """Return the JSON text of each list that nested fields give.  Raises RequestError or TooLarge."""
    entries: dict[str, dict[int, Entry]] = {}
    sizes: dict[str, int] = {}
    for name, value in nested:
        match = nested_name(name)
        assert match is not None, "only nested names are joined"
        field, part = match["field"], match["part"] or match["dotted"]
        if field in fields:
            raise RequestError("A field is given twice.", param=field, code="duplicate_field")
        sizes[field] = sizes.get(field, 0) + len(value.encode(errors="replace"))
        if sizes[field] > MAX_LIST_BYTES:
            message = f"The fields of `{field}` are longer than {MAX_LIST_BYTES} bytes together."
            raise RequestError(message, param=field, code="form_too_large")
        index = match["place"] or match["index"]
        _add(entries.setdefault(field, {}), field, index, part, value)
    return {
        field: f"[{','.join(_text(entry) for _, entry in sorted(given.items()))}]" for field, given in entries.items()
    }


def _add(given: dict[int, Entry], field: str, index: str | None, part: str | None, value: str) -> None:
    """Add one nested field to the entries so far: with a blank index, a part that the last entry has begins another."""
    last = max(given, default=0)
    if part is None:
        place = int(index) if index else last + (last in given)
        if place in given:
            raise RequestError("A field is given twice.", param=f"{field}[{place}]", code="duplicate_field")
        given[place] = _checked(field, value)
        return
    place = int(index) if index else last
    entry = given.get(place, {})
    if index == "" and part in _parts(entry, part):
        place, entry = last + 1, {}
    if not isinstance(entry, dict) or part in entry:
        raise RequestError("A field is given twice.", param=f"{field}[{place}].{part}", code="duplicate_field")
    given[place] = entry | {part: json.dumps(value) if part == "name" else _scalar(value)}


def _parts(entry: Entry, part: str) -> Iterable[str]:
    """Return the parts that an entry has; one that is given whole has any."""
    return entry if isinstance(entry, dict) else (part,)


def _checked(field: str, value: str) -> str:
    """Return a value that is JSON on its own, so that it stays one entry among others."""
    try:
        json.loads(bounded(value.encode(errors="replace"), field))
    except ValueError:
        raise RequestError(f"`{field}` must be JSON.", param=field, code="invalid_json") from None
    return value


def _text(entry: Entry) -> str:
    if isinstance(entry, str):
        return entry
    return "{" + ",".join(f"{json.dumps(part)}:{value}" for part, value in entry.items()) + "}"


def _scalar(value: str) -> str:
    """Return the JSON of a number as one; anything else stays text, which the field's type refuses."""
    return value.strip() if NUMBER.fullmatch(value.strip()) else json.dumps(value)
