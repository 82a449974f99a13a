"""A result folder: ``config.json`` says how it was measured, ``summary.json`` what was found."""

import datetime
import hashlib
import json
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from loadgen.machine import describe_commit, describe_machine, describe_versions
from loadgen.runs.outcome import Outcome, write_outcomes
from loadgen.traces.errors import TraceError
from loadgen.traces.record import Record

CONFIG, SUMMARY = "config.json", "summary.json"
RUN, SWEEP = "run", "sweep"
KEY, HIDDEN = "--api-key", "..."


def describe(kind: str, options: Mapping[str, object], workload: str) -> dict[str, object]:
    """Return the content of ``config.json``."""
    return {
        "kind": kind,
        "command": shlex.join(["python", "-m", "loadgen", *without_secrets(sys.argv[1:])]),
        "commit": describe_commit(Path(__file__).parent),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": describe_machine(),
        "versions": describe_versions(),
        "options": {name: without_secrets([v])[0] if isinstance(v, str) else v for name, v in options.items()},
        "workload": workload,
    }


def without_secrets(arguments: Sequence[str]) -> list[str]:
    """Return a command's arguments without keys: results are passed on."""
    shown: list[str] = []
    for argument in arguments:
        if shown and shown[-1] == KEY:
            argument = HIDDEN
        elif argument.startswith(f"{KEY}="):
            argument = f"{KEY}={HIDDEN}"
        shown.append(re.sub(r"://[^/@\s]*@", f"://{HIDDEN}@", argument))
    return shown


def digest(records: Sequence[Record], due_s: Sequence[float]) -> str:
    """Return a hash of the requests and of when they are due; equal ones can be compared request by request."""
    found = hashlib.sha256()
    for record in records:
        found.update(record.line().encode())
    found.update(json.dumps([round(at_s, 6) for at_s in due_s]).encode())
    return found.hexdigest()


def write_result(
    folder: Path, config: Mapping[str, object], summary: Mapping[str, object], outcomes: Sequence[Outcome] = ()
) -> None:
    """Write a result.  Raises TraceError where the folder cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in ((CONFIG, config), (SUMMARY, summary)):
            (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        if outcomes:
            write_outcomes(folder, outcomes)
    except OSError as error:
        raise TraceError(folder, error.strerror or "cannot be written") from None


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """Return one of a result's documents.  Raises TraceError."""
    path = folder / name
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TraceError(path, error.strerror or "cannot be read") from None
    except ValueError as error:
        raise TraceError(path, f"is no JSON: {error}") from None
    if not isinstance(document, dict):
        raise TraceError(path, "holds no JSON object")
    return document
