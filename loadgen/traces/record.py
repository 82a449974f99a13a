"""The native format: one JSON object a line, which NVIDIA's aiperf replays as a trace of verbatim payloads.

``timestamp`` is in milliseconds from the start, ascending; ``payload`` is the body of an image request; ``extra`` is
what a body has no field for.  See docs/loadgen.md.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from loadgen.traces.arrival import GENERATION, KINDS
from loadgen.traces.errors import TraceError
from loadgen.traces.rows import Row, json_rows, shown

SEEDS = 2**32
SEEDS_APART = 1_000_003  # between the takes of one request

FIELDS = ("timestamp", "payload", "extra")
TEXTS = ("workflow", "tenant")
MILLISECONDS = ("solo_ms", "slo_ms")
LISTS = ("controlnets", "adapters")


@dataclass(frozen=True, slots=True)
class Record:
    """One request: when it is due, its body, and what its body has no field for."""

    timestamp_ms: float
    payload: Mapping[str, object]
    extra: Mapping[str, object] = field(default_factory=dict)

    @property
    def at_s(self) -> float:
        """Seconds from the start of the trace."""
        return self.timestamp_ms / 1000

    @property
    def workflow(self) -> str:
        """The trace's own name of the workflow; else the model that the body asks for."""
        return str(self.extra.get("workflow") or self.payload.get("model") or "")

    @property
    def kind(self) -> str:
        """Whether the request generates, edits, or edits within a mask."""
        return str(self.extra.get("kind", GENERATION))

    def names(self, field: str) -> tuple[str, ...]:
        """Return the names of the request's ``controlnets`` or ``adapters``."""
        listed = self.extra.get(field, ())
        return tuple(map(str, listed)) if isinstance(listed, list | tuple) else ()

    def milliseconds(self, field: str) -> float | None:
        """Return ``solo_ms`` or ``slo_ms``; None where the trace says nothing."""
        value = self.extra.get(field)
        return float(value) if isinstance(value, int | float) else None

    def take(self, number: int) -> "Record":
        """Return the request for another time: with a seed and a prompt of its own, so that no cache answers it."""
        if not number:
            return self
        payload = dict(self.payload)
        if isinstance(seed := payload.get("seed"), int):
            payload["seed"] = (seed + SEEDS_APART * number) % SEEDS
        if isinstance(prompt := payload.get("prompt"), str):
            payload["prompt"] = f"{prompt}, take {number}"
        return replace(self, payload=payload)

    def line(self) -> str:
        """Return the record as a line of the file."""
        document: dict[str, object] = {"timestamp": round(self.timestamp_ms, 3), "payload": dict(self.payload)}
        if self.extra:
            document["extra"] = dict(self.extra)
        return json.dumps(document, ensure_ascii=False, separators=(",", ":"), allow_nan=False) + "\n"


def read_native(path: Path) -> Iterator[Record]:
    """Yield the records of a file in the native format.  Raises TraceError."""
    before = 0.0
    for row in json_rows(path):
        record = _record(row)
        if record.timestamp_ms < before:
            raise row.error("timestamp", f"{record.timestamp_ms:g} is earlier than the line before, {before:g}")
        before = record.timestamp_ms
        yield record


def write_native(path: Path, records: Iterable[Record]) -> int:
    """Write a file in the native format and return how many records it has.  Raises TraceError."""
    count = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8") as file:
            for record in records:
                file.write(record.line())
                count += 1
    except OSError as error:
        raise TraceError(path, error.strerror or "cannot be written") from None
    return count


def _record(row: Row) -> Record:
    for name in row.values:
        if name not in FIELDS:
            raise row.error(name, f"is unknown; a line has {', '.join(FIELDS)}")
    timestamp_ms = row.number("timestamp")
    payload = row.values.get("payload")
    if not isinstance(payload, dict) or not payload:
        raise row.error("payload", "is missing" if payload is None else f"{shown(payload)} is no request body")
    extra = row.values.get("extra", {})
    if not isinstance(extra, dict):
        raise row.error("extra", f"{shown(extra)} is no JSON object")
    _check_extra(Row(row.path, row.line, {f"extra.{name}": value for name, value in extra.items()}), extra)
    return Record(timestamp_ms, payload, extra)


def _check_extra(row: Row, extra: Mapping[str, object]) -> None:
    """Check the fields of ``extra`` that this tool reads; others may be there."""
    for name in extra:
        field = f"extra.{name}"
        if name in TEXTS:
            row.text(field)
        elif name in MILLISECONDS:
            row.number(field)
        elif name in LISTS:
            row.names(field)
        elif name == "kind" and row.text(field) not in KINDS:
            raise row.error(field, f"{shown(extra[name])} is none of {', '.join(KINDS)}")
