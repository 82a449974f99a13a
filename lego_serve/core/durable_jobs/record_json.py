"""The text form of what a store holds: JSON of records and outbox rows, with a version, read strictly.

A record written by another version of this program may mean something else.  So a field too many, one too few or one
of another type is an error, not a guess; but for fields that came later, which are left out where they say nothing.
"""

import json
import types
from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import cache
from operator import attrgetter
from typing import Any, TypeAlias, Union, get_args, get_origin, get_type_hints

from lego_serve.core.durable_jobs.outbox import OutboxRow
from lego_serve.core.durable_jobs.record import JobError, JobRecord, JobRequest, SettledTier, StoredProgress, Webhook
from lego_serve.errors import LegoError

FORMAT = 1
Reader: TypeAlias = Callable[[Any], Any]
_DATACLASSES = (JobRecord, JobRequest, JobError, SettledTier, StoredProgress, Webhook, OutboxRow)
_LATER = frozenset({(JobRecord, "tier")})  # fields that records of older versions lack; None says nothing
_PLAIN = frozenset[Any]({str, int, float, bool, types.NoneType, dict})  # that JSON writes as they are
_ENCODER = json.JSONEncoder(allow_nan=False, separators=(",", ":"))


class BadRecord(LegoError, ValueError):
    """A stored text that is no record of this version; ours, so that what runs for ever survives it."""

    code = "unreadable_record"


def record_to_json(record: JobRecord) -> str:
    """Return a record's text.  Raises BadRecord where its inputs or result hold what JSON has not."""
    return _write(record)


def record_from_json(text: str | bytes) -> JobRecord:
    """Return the record of a text.  Raises BadRecord."""
    record: JobRecord = _read(JobRecord, text)
    return record


def row_to_json(row: OutboxRow) -> str:
    """Return an outbox row's text."""
    return _write(row)


def row_from_json(text: str | bytes) -> OutboxRow:
    """Return the outbox row of a text.  Raises BadRecord."""
    row: OutboxRow = _read(OutboxRow, text)
    return row


def _write(value: object) -> str:
    try:
        return _ENCODER.encode({"format": FORMAT, **_plain(value)})
    except (TypeError, ValueError) as error:
        raise BadRecord(f"{type(value).__name__} has a value that JSON cannot hold: {error}") from None


def _plain(value: Any) -> Any:
    """Return a value with its dataclasses as mappings."""
    cls: Any = type(value)
    if cls in _DATACLASSES:
        names, later, fields = _fields(cls)
        return {
            name: each if type(each) in _PLAIN else _plain(each)
            for name, each in zip(names, fields(value), strict=True)
            if each is not None or name not in later
        }
    return list(value) if cls is tuple else value


def _read(cls: Any, text: str | bytes) -> Any:
    try:
        value = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise BadRecord(f"The stored {cls.__name__} is no JSON.") from None
    found = value.pop("format", None) if isinstance(value, dict) else None
    if found != FORMAT:
        raise BadRecord(f"The stored {cls.__name__} has format {found!r}; this version reads format {FORMAT}.")
    return _reader(cls, cls.__name__)(value)


def _no_number(word: str) -> None:
    """Refuse ``NaN`` and ``Infinity``, which Python reads and no store could write again."""
    raise ValueError(f"{word} is no JSON")


@cache
def _hints(cls: Any) -> dict[str, Any]:
    return get_type_hints(cls)


@cache
def _fields(cls: Any) -> tuple[tuple[str, ...], frozenset[str], Callable[[Any], tuple[Any, ...]]]:
    """Return the names of a dataclass's fields, those of them that came later, and what reads all fields at once."""
    names = tuple(_hints(cls))
    return names, frozenset(name for name in names if (cls, name) in _LATER), attrgetter(*names)


@cache
def _reader(hint: Any, place: str) -> Reader:
    """Return what makes a value of a type of JSON, or raises BadRecord that names the place.  Made once a place."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (types.UnionType, Union):
        inner = _reader(next(part for part in parts if part is not types.NoneType), place)
        return lambda value: None if value is None else inner(value)
    if hint is object:
        return lambda value: value
    if origin is tuple:
        item = _reader(parts[0], place)
        return _checked((list,), place, lambda value: tuple(map(item, value)))
    if origin is Mapping:
        entry = _reader(parts[1], f"{place}'s entry")
        return _checked((dict,), place, lambda value: {key: entry(each) for key, each in value.items()})
    if hint in _DATACLASSES:
        return _checked((dict,), place, _maker(hint, place))
    if issubclass(hint, StrEnum):
        members = {member.value: member for member in hint}
        return _checked((str,), place, lambda value: members[value] if value in members else _refuse(value, place))
    return _checked((int, float) if hint is float else (hint,), place, hint)


def _maker(cls: Any, place: str) -> Reader:
    """Return what makes an instance of a dataclass."""
    readers = {name: _reader(hint, f"{place}.{name}") for name, hint in _hints(cls).items()}
    _, later, _ = _fields(cls)

    def make(value: Any) -> Any:
        wrong = [name for name in value.keys() ^ readers.keys() if name in value or name not in later]
        if wrong:
            raise BadRecord(f"{place} has fields too many or too few: {', '.join(sorted(wrong))}.")
        return cls(**{name: read(value[name]) for name, read in readers.items() if name in value})

    return make


def _checked(allowed: tuple[type, ...], place: str, make: Reader) -> Reader:
    return lambda value: make(value) if type(value) in allowed else _refuse(value, place)


def _refuse(value: Any, place: str) -> Any:
    raise BadRecord(f"{place} is a {type(value).__name__}, which it cannot be.")
