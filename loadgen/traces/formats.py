"""The formats that trace files come in, and which one a file has."""

import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from loadgen.traces.arrival import Arrival
from loadgen.traces.errors import TraceError
from loadgen.traces.image_traces import GENTD26_COLUMNS, read_diflow, read_gentd26, read_katz
from loadgen.traces.payloads import Asking, to_records
from loadgen.traces.record import Record, read_native
from loadgen.traces.rows import lines
from loadgen.traces.token_traces import AZURE_COLUMNS, BURSTGPT_COLUMNS, read_azure, read_burstgpt, read_mooncake

Reader = Callable[[Path, random.Random], Iterator[Arrival]]

READERS: Mapping[str, Reader] = {
    "diflow": read_diflow,
    "gentd26": read_gentd26,
    "katz": read_katz,
    "azure": read_azure,
    "mooncake": read_mooncake,
    "burstgpt": read_burstgpt,
}
NATIVE = "native"
AUTO = "auto"
FORMATS = (AUTO, NATIVE, *READERS)
MARKS = (('"payload"', NATIVE), ('"scene_id"', "katz"), ('"input_length"', "mooncake"))


def read_records(path: Path, name: str, asking: Asking, seed: int) -> list[Record]:
    """Return the requests of a trace in any format, in order of time.  Raises TraceError."""
    chosen = detect(path) if name == AUTO else name
    if chosen == NATIVE:
        records = list(read_native(path))
    else:
        records = list(to_records(list(READERS[chosen](path, random.Random(f"{seed}/trace"))), asking, seed))
    if not records:
        raise TraceError(path, "has no requests")
    return records


def detect(path: Path) -> str:
    """Return the format of a file by its first lines.  Raises TraceError."""
    first = next((text.strip() for _, text in lines(path) if text.strip(" \t\r\n[")), "")
    header = {name.strip() for name in first.split(",")}
    for name, columns in (("azure", AZURE_COLUMNS), ("burstgpt", BURSTGPT_COLUMNS), ("gentd26", GENTD26_COLUMNS)):
        if header >= set(columns):
            return name
    if first.startswith(("{", "[")):
        for mark, name in MARKS:
            if mark in first:
                return name
        if '"timestamp"' not in first:  # an array whose objects begin on lines of their own
            return "katz"
    words = first.split()
    if len(words) == 2 and words[1].replace(".", "", 1).isdigit():
        return "diflow"
    raise TraceError(path, f"is in no known format; say which by --format: {', '.join(FORMATS[1:])}", line=1)
