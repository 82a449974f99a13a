"""The error about a trace file, one line that says where to look."""

from pathlib import Path


class TraceError(Exception):
    """A trace file cannot be read; the message names the file, the line and the field, where there are any."""

    def __init__(self, path: Path, problem: str, *, line: int | None = None, field: str | None = None) -> None:
        place = str(path) if line is None else f"{path}:{line}"
        super().__init__(f"{place}: {problem}" if field is None else f"{place}: field `{field}`: {problem}")
