"""The text form of what a store holds: JSON of records and outbox rows, with a version, read strictly.

A record written by another version of this program may mean something else.  So a field too many, one too few or one
of another type is an error, not a guess.
"""

import json
import types
from collections.abc import Hashable, Mapping
from dataclasses import fields, is_dataclass
from enum import StrEnum
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from lego_serve.core.durable_jobs.outbox import OutboxRow
from lego_serve.core.durable_jobs.record import JobRecord

FORMAT = 1
T = TypeVar("T")


class BadRecord(ValueError):
    """A stored text that is no record of this version."""


def record_to_json(record: JobRecord) -> str:
    """Return a record's text.  Raises BadRecord where its inputs or result hold what JSON has not."""
    return _write(record)


def record_from_json(text: str | bytes) -> JobRecord:
    """Return the record of a text.  Raises BadRecord."""
    return _read(JobRecord, text)


def row_to_json(row: OutboxRow) -> str:
    """Return an outbox row's text."""
    return _write(row)


def row_from_json(text: str | bytes) -> OutboxRow:
    """Return the outbox row of a text.  Raises BadRecord."""
    return _read(OutboxRow, text)


def _write(value: object) -> str:
    try:
        return json.dumps({"format": FORMAT, **_plain(value)}, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise BadRecord(f"{type(value).__name__} has a value that JSON cannot hold: {error}") from None


def _plain(value: Any) -> Any:
    """Return a value with its dataclasses as mappings."""
    if is_dataclass(value) and not isinstance(value, type):
        return {name: _plain(getattr(value, name)) for name in _hints(type(value))}
    return list(value) if isinstance(value, tuple) else value


def _read(cls: type[T], text: str | bytes) -> T:
    try:
        value = json.loads(text)
    except ValueError:
        raise BadRecord(f"The stored {cls.__name__} is no JSON.") from None
    found = value.pop("format", None) if isinstance(value, dict) else None
    if found != FORMAT:
        raise BadRecord(f"The stored {cls.__name__} has format {found!r}; this version reads format {FORMAT}.")
    made: T = _typed(cls, value, cls.__name__)
    return made


@cache
def _hints(cls: Hashable) -> dict[str, Any]:
    hints = get_type_hints(cls)
    return {each.name: hints[each.name] for each in fields(cls)}  # type: ignore[arg-type]


def _typed(hint: Any, value: Any, place: str) -> Any:
    """Return a JSON value as the type it must be of.  Raises BadRecord that names the place."""
    if hint is object:
        return value
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (types.UnionType, Union):
        inner = next(part for part in parts if part is not types.NoneType)
        return None if value is None else _typed(inner, value, place)
    if origin is tuple and isinstance(value, list):
        return tuple(_typed(parts[0], each, place) for each in value)
    if origin is Mapping and isinstance(value, dict):
        return {key: _typed(parts[1], each, f"{place}.{key}") for key, each in value.items()}
    if is_dataclass(hint) and isinstance(value, dict):
        return _made(hint, value, place)
    if hint is float and type(value) in (int, float):
        return float(value)
    if hint in (int, str) and type(value) is hint:
        return value
    if isinstance(hint, type) and issubclass(hint, StrEnum) and value in tuple(hint):
        return hint(value)
    raise BadRecord(f"{place} is a {type(value).__name__}, which it cannot be.")


def _made(cls: Any, value: dict[str, Any], place: str) -> Any:
    hints = _hints(cls)
    if value.keys() != hints.keys():
        wrong = ", ".join(sorted(value.keys() ^ hints.keys()))
        raise BadRecord(f"{place} has fields too many or too few: {wrong}.")
    return cls(**{name: _typed(hint, value[name], f"{place}.{name}") for name, hint in hints.items()})
