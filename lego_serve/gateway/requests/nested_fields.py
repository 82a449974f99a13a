"""Joins the form fields that SDKs write for a list of objects: ``lora[][name]``, ``lora[0][name]``, ``lora[name]``.

They become the JSON that the field takes as text, so that there is one way to check it.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from lego_serve.errors import RequestError

LIST_FIELDS = ("lora",)
# The field, an index or nothing, and the part of the entry.
NESTED = re.compile(
    r"(?P<field>lora)(?:\[(?P<index>\d{0,3})\])?(?:\[(?P<part>[a-z]{1,16})\]|\.(?P<dotted>[a-z]{1,16}))?"
)
NUMBER = re.compile(r"-?(?:0|[1-9]\d{0,15})(?:\.\d{1,30})?(?:[eE][+-]?\d{1,4})?")


def nested_name(name: str) -> re.Match[str] | None:
    """Return the parts of a nested field's name; None for any other name."""
    return None if name in LIST_FIELDS else NESTED.fullmatch(name)


def join_nested(nested: Iterable[tuple[str, str]], fields: Mapping[str, Any]) -> dict[str, str]:
    """Return the JSON text of each list that nested fields give.  Raises RequestError."""
    entries: dict[str, dict[int, Any]] = {}
    for name, value in nested:
        match = nested_name(name)
        assert match is not None, "only nested names are joined"
        field, part = match["field"], match["part"] or match["dotted"]
        if field in fields:
            raise RequestError("A field is given twice.", param=field, code="duplicate_field")
        _add(entries.setdefault(field, {}), field, match["index"], part, value)
    return {field: json.dumps([parts for _, parts in sorted(given.items())]) for field, given in entries.items()}


def _add(given: dict[int, Any], field: str, index: str | None, part: str | None, value: str) -> None:
    """Add one nested field to the entries so far: with a blank index, a part that the last entry has begins another."""
    if part is None:
        given[int(index) if index else len(given)] = _entry(field, value)
        return
    last = max(given, default=0)
    place = int(index) if index else last
    if not index and index is not None and part in given.get(last, {}):
        place = last + 1
    entry = given.setdefault(place, {})
    if not isinstance(entry, dict) or part in entry:
        raise RequestError("A field is given twice.", param=f"{field}[{place}].{part}", code="duplicate_field")
    entry[part] = value if part == "name" else _scalar(value)


def _entry(field: str, value: str) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise RequestError(f"`{field}` must be JSON.", param=field, code="invalid_json") from None


def _scalar(value: str) -> Any:
    """Return a number as one; anything else stays text, which the field's type refuses."""
    return float(value) if NUMBER.fullmatch(value.strip()) else value
