"""The inputs of a job as stored: JSON, in which bytes are replaced by their sha256 and kept apart.

A record is read and written many times and its images once, so a record holds no image.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lego_serve.core.durable_jobs.record import Json

MARK = "$bytes"  # a mapping with this one key stands for bytes
RUN_FILES = ("image", "mask")  # what a job reads while it runs; what else comes with it stays as long as its record
ESCAPE = "$literal"  # a mapping with this one key stands for one that looks like a mark or an escape


@dataclass(frozen=True, slots=True)
class StoredInputs:
    """Inputs ready to be stored: the values for the record, and the contents of its images by sha256."""

    values: Mapping[str, Json]
    contents: Mapping[str, bytes]


def take_apart(inputs: Mapping[str, object]) -> StoredInputs:
    """Return inputs with their bytes apart; lists and tuples become lists.  Raises TypeError for another value."""
    contents: dict[str, bytes] = {}

    def plain(value: object, place: str) -> Json:
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, bytes):
            digest = hashlib.sha256(value).hexdigest()
            contents[digest] = value
            return {MARK: digest}
        if isinstance(value, list | tuple):
            return [plain(each, place) for each in value]
        if isinstance(value, Mapping):
            entries = {str(key): plain(each, f"{place}.{key}") for key, each in value.items()}
            return {ESCAPE: entries} if entries.keys() in ({MARK}, {ESCAPE}) else entries
        raise TypeError(f"input {place} is a {type(value).__name__}, which cannot be stored")

    return StoredInputs({name: plain(value, name) for name, value in inputs.items()}, contents)


def put_together(values: Mapping[str, Json], read: Callable[[str], bytes]) -> dict[str, object]:
    """Return the inputs that were taken apart.  ``read`` answers the content of a sha256, or raises.

    Raises ValueError where what it answers is something else.
    """

    def whole(value: Json) -> object:
        if isinstance(value, list):
            return [whole(each) for each in value]
        if not isinstance(value, Mapping):
            return value
        if value.keys() == {MARK}:
            return _checked(read(str(value[MARK])), str(value[MARK]))
        entries = value[ESCAPE] if value.keys() == {ESCAPE} else value
        return {key: whole(each) for key, each in entries.items()}

    return {name: whole(value) for name, value in values.items()}


def digests(value: Json) -> frozenset[str]:
    """Return the sha256 of all bytes that stand apart from stored inputs, or from a part of them."""
    if isinstance(value, list):
        return frozenset[str]().union(*map(digests, value))
    if not isinstance(value, Mapping):
        return frozenset()
    if value.keys() == {MARK}:
        return frozenset({str(value[MARK])})
    entries = value[ESCAPE] if value.keys() == {ESCAPE} else value
    return frozenset[str]().union(*map(digests, entries.values()))


def passing_inputs(values: Mapping[str, Json]) -> frozenset[str]:
    """Return the sha256 of the images that stored inputs stand for and that nobody needs after the job's end."""
    files = values.get("files")
    beside = {name: each for name, each in files.items() if name not in RUN_FILES} if isinstance(files, Mapping) else {}
    return digests(values) - digests(beside)


def _checked(content: bytes, digest: str) -> bytes:
    if hashlib.sha256(content).hexdigest() != digest:
        raise ValueError(f"the stored input {digest[:12]} is damaged: its content has another sha256")
    return content
