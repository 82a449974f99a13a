"""Reads text files line by line, and the fields of a line as typed values; errors name the line and the field."""

import csv
import datetime
import gzip
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from loadgen.traces.errors import TraceError

SHOWN = 40  # characters of a wrong value that an error shows


@dataclass(frozen=True, slots=True)
class Row:
    """The fields of one line; those of CSV are text, those of JSON have their own types."""

    path: Path
    line: int
    values: Mapping[str, object]

    def error(self, field: str, problem: str) -> TraceError:
        """Return the error about one field of this line."""
        return TraceError(self.path, problem, line=self.line, field=field)

    def is_empty(self, field: str) -> bool:
        """Return whether a field is missing, null or blank."""
        value = self.values.get(field)
        return value is None or (isinstance(value, str) and not value.strip())

    def text(self, field: str) -> str:
        """Return a field as text.  Raises TraceError where it is empty or no text and no number."""
        value = self._value(field)
        if isinstance(value, str):
            return value.strip()
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
        raise self.error(field, f"{shown(value)} is no text")

    def number(self, field: str, least: float = 0.0) -> float:
        """Return a field as a finite number of at least ``least``.  Raises TraceError."""
        value = self._value(field)
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise self.error(field, f"{shown(value)} is no number")
        try:
            number = float(value)
        except (ValueError, OverflowError):
            raise self.error(field, f"{shown(value)} is no number") from None
        if not math.isfinite(number) or number < least:
            raise self.error(field, f"{shown(value)} is no number of at least {least:g}")
        return number

    def integer(self, field: str, least: int = 0) -> int:
        """Return a field as a whole number.  Raises TraceError."""
        number = self.number(field, least)
        if not number.is_integer():
            raise self.error(field, f"{shown(self._value(field))} is no whole number")
        return int(number)

    def time_s(self, field: str) -> float:
        """Return a date and time as seconds since 1970.  Raises TraceError."""
        text = self.text(field)
        try:
            moment = datetime.datetime.fromisoformat(text[:26])  # Azure writes seven digits of a second
        except ValueError:
            raise self.error(field, f"{shown(text)} is no date and time such as 2023-11-16 18:17:03") from None
        return moment.replace(tzinfo=datetime.UTC).timestamp()

    def names(self, field: str) -> tuple[str, ...]:
        """Return a list of names; null is an empty one.  Raises TraceError."""
        value = self.values.get(field)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(each, str | int) for each in value):
            raise self.error(field, f"{shown(value)} is no list of names")
        return tuple(map(str, value))

    def _value(self, field: str) -> object:
        if self.is_empty(field):
            raise self.error(field, "is missing")
        return self.values[field]


def shown(value: object) -> str:
    """Return a wrong value as an error shows it."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def open_bytes(path: Path) -> BinaryIO:
    """Open a file, unpacked where its name ends in ``.gz``.  Raises TraceError."""
    try:
        path.stat()
        return cast(BinaryIO, gzip.open(path)) if path.suffix == ".gz" else path.open("rb")
    except OSError as error:
        raise TraceError(path, error.strerror or "cannot be read") from None


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield each line's number and text.  Raises TraceError for a file that is missing, empty or no text."""
    number = 0
    with open_bytes(path) as file:
        try:
            for number, raw in enumerate(file, start=1):
                yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise TraceError(path, "is no text in UTF-8", line=number) from None
        except (OSError, EOFError) as error:
            raise TraceError(path, f"cannot be read: {error}", line=number + 1) from None
    if number == 0:
        raise TraceError(path, "is empty")


def csv_rows(path: Path, needed: Sequence[str]) -> Iterator[Row]:
    """Yield the rows below a header that has at least the needed columns.  Raises TraceError."""
    reader = csv.reader((text for _, text in lines(path)), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        for name in needed:
            if name not in header:
                raise TraceError(path, "the header has no such column", line=1, field=name)
        for values in reader:
            if not values:
                continue
            if len(values) != len(header):
                raise TraceError(path, f"has {len(values)} fields, the header {len(header)}", line=reader.line_num)
            yield Row(path, reader.line_num, dict(zip(header, values, strict=True)))
    except csv.Error as error:
        raise TraceError(path, f"is no CSV: {error}", line=reader.line_num) from None


def json_rows(path: Path) -> Iterator[Row]:
    """Yield the objects of a file with one on each line; blank lines are passed over.  Raises TraceError."""
    for number, text in lines(path):
        if text.strip():
            yield Row(path, number, json_object(path, number, text))


def json_object(path: Path, line: int, text: str) -> dict[str, object]:
    """Return the JSON object that a line holds.  Raises TraceError."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TraceError(path, f"is no JSON: {error}", line=line) from None
    if not isinstance(value, dict):
        raise TraceError(path, f"{shown(value)} is no JSON object", line=line)
    return value


def json_array_rows(path: Path) -> Iterator[Row]:
    """Yield the objects of a file that holds one JSON array, with the line each begins on.  Raises TraceError."""
    text = "".join(text for _, text in lines(path))
    decoder, position, line = json.JSONDecoder(), _skip(text, 0), 1
    if text[position : position + 1] != "[":
        raise TraceError(path, "holds no JSON array", line=1)
    counted = 0
    for index in itertools.count():
        position = _skip(text, position + 1)
        line, counted = line + text.count("\n", counted, position), position
        if index == 0 and text[position : position + 1] == "]":
            return
        try:
            value, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            raise TraceError(path, f"is no JSON: {error}", line=line) from None
        if not isinstance(value, dict):
            raise TraceError(path, f"{shown(value)} is no JSON object", line=line)
        yield Row(path, line, value)
        position = _skip(text, position)
        if text[position : position + 1] == "]":
            return
        if text[position : position + 1] != ",":
            raise TraceError(path, "a comma or ] is missing after this object", line=line)


def _skip(text: str, position: int) -> int:
    """Return where the next character that is no white space lies."""
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position
