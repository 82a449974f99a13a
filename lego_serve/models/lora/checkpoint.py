"""Reads and checks an adapter's file without trusting any of it.

The file is read whole from one descriptor, so that the bytes that are checked, hashed and used are the
same whatever happens to its path.  Its header is parsed here rather than by a library, which would
accept duplicate keys and take memory without bound for its notes (``header``).  A fault is one line with
the adapter's id and never a path or a value.
"""

import hashlib
import json
import math
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import torch

from lego_serve.core.addons import entry_param
from lego_serve.errors import InvalidAdapter, NotFound
from lego_serve.models.lora.header import MAX_HEADER_BYTES, HeaderTooLong, pieces, without_long_notes

MAX_FILE_BYTES = 512 << 20
MAX_TENSORS = 4096
MAX_SIDE = 1 << 21  # FLUX's largest layer has 18432 outputs; no layer of any model comes near
MAX_WEIGHT = 1e4
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
SMALL_DTYPES = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}  # each value is one of bfloat16 too
ALPHA_DTYPES = {  # of single numbers, as some trainers write them
    "F64": torch.float64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
}
METADATA = "__metadata__"
KIND_BYTES = 512  # from the beginning of a file, to tell other formats by
OTHER_FORMATS = {  # by a file's first bytes
    b"PK\x03\x04": "a zip archive (a pickled checkpoint is one)",
    b"PK\x05\x06": "a zip archive",
    b"\x1f\x8b": "a gzip archive",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ": "an xz archive",
    b"\x89HDF": "an HDF5 file",
    b"GGUF": "a GGUF file",
    **{bytes([0x80, protocol]): "a Python pickle" for protocol in range(2, 6)},
}
TAR_MAGIC, TAR_OFFSET = b"ustar", 257


@dataclass(frozen=True, slots=True, eq=False)
class AdapterFile:
    """A checked safetensors file: its hash, its size and its tensors, on the CPU, each finite and small.

    Where only the header was read the hash is empty and tensors have no values (``meta``).
    """

    sha256: str
    size_bytes: int
    tensors: Mapping[str, torch.Tensor]
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Entry:
    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


def read_adapter_file(adapter_id: str, path: Path) -> AdapterFile:
    """Read and check a file.  Raises InvalidAdapter; NotFound when there is none."""
    with opened(adapter_id, path) as (file, _):
        data = file.read(MAX_FILE_BYTES + 1)  # one more: a file that grows meanwhile is refused too
    return parse_adapter(adapter_id, data)


def peek_adapter_file(adapter_id: str, path: Path) -> AdapterFile:
    """Read and check a file's header only: the result has no hash, and tensors without values (``meta``).

    Raises as ``read_adapter_file`` does.
    """
    with opened(adapter_id, path) as (file, size_bytes):
        _, metadata, entries = _layout(adapter_id, file, size_bytes)
    tensors = {
        name: torch.empty(entry.shape, dtype=_used_dtype(entry.dtype), device="meta") for name, entry in entries.items()
    }
    return AdapterFile("", size_bytes, tensors, metadata)


def hash_adapter_file(adapter_id: str, path: Path) -> str:
    """Return the SHA-256 of a file's bytes, which are not checked.  Raises as ``read_adapter_file`` does."""
    with opened(adapter_id, path) as (file, _):
        return hashlib.file_digest(file, "sha256").hexdigest()


def parse_adapter(adapter_id: str, data: bytes) -> AdapterFile:
    """Check the bytes of a file.  Raises InvalidAdapter."""
    if len(data) > MAX_FILE_BYTES:
        raise refusal(adapter_id, f"is larger than {MAX_FILE_BYTES >> 20} MiB")
    start, metadata, entries = _layout(adapter_id, BytesIO(data), len(data))
    tensors = {name: _tensor(adapter_id, name, entry, data, start) for name, entry in entries.items()}
    return AdapterFile(hashlib.sha256(data).hexdigest(), len(data), tensors, metadata)


def _layout(adapter_id: str, file: BinaryIO, size_bytes: int) -> tuple[int, dict[str, str], dict[str, _Entry]]:
    """Return where the tensors' bytes begin, the metadata and the tensors, by the header of a file of so many bytes."""
    start, header = header_of(adapter_id, file, size_bytes)
    metadata = _metadata(adapter_id, header.pop(METADATA, {}))
    if not header:
        raise refusal(adapter_id, "holds no tensors")
    entries = {name: _entry(adapter_id, name, fields) for name, fields in header.items()}
    _check_tiling(adapter_id, entries.values(), size_bytes - start)
    return start, metadata, entries


def refusal(adapter_id: str, fault: str) -> InvalidAdapter:
    """Make the error for an adapter with this fault."""
    return InvalidAdapter(f"Adapter {adapter_id} {fault}.", param=entry_param("lora", adapter_id))


def no_adapter(message: str, adapter_id: str) -> NotFound:
    """Make the error for an adapter that does not exist."""
    return NotFound(message, param=entry_param("lora", adapter_id), code="adapter_not_found")


def pattern(key: str) -> str:
    """Make a tensor's name safe to repeat: numbers as N, other than plain characters as ?, of bounded length."""
    plain = re.sub(r"[^A-Za-z0-9_.]", "?", key[:200])
    return re.sub(r"\d+", "N", plain)[:100]


@contextmanager
def opened(adapter_id: str, path: Path) -> Iterator[tuple[BufferedReader, int]]:
    """Open a regular file of at most MAX_FILE_BYTES; yield it, and its size in bytes."""
    try:
        # No waiting for a FIFO's writer, and no link followed.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise no_adapter(f"There is no adapter {adapter_id}.", adapter_id) from None
    except OSError:
        raise refusal(adapter_id, "cannot be opened, or is a link") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise refusal(adapter_id, "is no regular file")
        if status.st_size > MAX_FILE_BYTES:
            raise refusal(adapter_id, f"is larger than {MAX_FILE_BYTES >> 20} MiB")
        with open(descriptor, "rb", closefd=False) as file:
            yield file, status.st_size
    except OSError:
        raise refusal(adapter_id, "cannot be read") from None
    finally:
        os.close(descriptor)


def _check_kind(adapter_id: str, data: bytes) -> None:
    if not data:
        raise refusal(adapter_id, "is an empty file")
    for magic, kind in OTHER_FORMATS.items():
        if data.startswith(magic):
            raise refusal(adapter_id, f"is {kind}, not safetensors")
    if data[TAR_OFFSET : TAR_OFFSET + len(TAR_MAGIC)] == TAR_MAGIC:
        raise refusal(adapter_id, "is a tar archive, not safetensors")


def header_of(adapter_id: str, file: BinaryIO, size_bytes: int) -> tuple[int, dict[str, Any]]:
    """Return where the tensors' bytes begin, and the header without its long notes.  Raises InvalidAdapter."""
    head = file.read(KIND_BYTES)
    _check_kind(adapter_id, head)
    length = int.from_bytes(head[:8], "little")
    if len(head) < 8 or length == 0:
        raise refusal(adapter_id, "has no safetensors header")
    if length > MAX_HEADER_BYTES:
        fault = f"has a header of {length / 1e6:.0f} MB, where safetensors allows {MAX_HEADER_BYTES / 1e6:.0f}"
        raise refusal(adapter_id, f"{fault}: its metadata is too long, or it is not safetensors")
    if 8 + length > size_bytes:
        raise refusal(adapter_id, "ends within its header")
    file.seek(8)
    header = _parsed(adapter_id, pieces(file, length))
    if len(header) - (METADATA in header) > MAX_TENSORS:
        raise refusal(adapter_id, f"holds more than {MAX_TENSORS} tensors")
    return 8 + length, header


def _parsed(adapter_id: str, text: Iterable[bytes]) -> dict[str, Any]:
    try:
        kept = without_long_notes(text)
        header = json.loads(kept.decode(), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except HeaderTooLong:
        fault = "has a header of more than 1 MiB even without its long notes: its metadata has too many entries"
        raise refusal(adapter_id, fault) from None
    except _DuplicateKey:
        raise refusal(adapter_id, "has a header that names something twice") from None
    except (ValueError, RecursionError):
        raise refusal(adapter_id, "has a header that is no JSON") from None
    if not isinstance(header, dict):
        raise refusal(adapter_id, "has a header that is no JSON object")
    return header


class _DuplicateKey(Exception):
    pass


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        raise _DuplicateKey
    return unique


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


def _metadata(adapter_id: str, value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise refusal(adapter_id, "has metadata that is not text by name")
    return value


def _entry(adapter_id: str, name: str, fields: Any) -> _Entry:
    """Check a tensor's header entry, which must have a shape and dtype that a weight or an alpha can have."""
    which = f"tensor {pattern(name)}"
    if not isinstance(fields, dict) or set(fields) != {"dtype", "shape", "data_offsets"}:
        raise refusal(adapter_id, f"has a header that does not describe {which}")
    is_alpha = name.endswith(".alpha") and fields["shape"] in ([], [1])
    known = DTYPES | SMALL_DTYPES | (ALPHA_DTYPES if is_alpha else {})
    dtype = known.get(fields["dtype"]) if isinstance(fields["dtype"], str) else None
    if dtype is None:
        raise refusal(adapter_id, f"has {which} of a dtype other than {', '.join(known)}")
    shape, offsets = fields["shape"], fields["data_offsets"]
    if not _are_counts(shape) or len(shape) > 4 or not all(1 <= side <= MAX_SIDE for side in shape):
        raise refusal(adapter_id, f"has {which} of an impossible shape")
    if not _are_counts(offsets) or len(offsets) != 2:
        raise refusal(adapter_id, f"has {which} at an impossible place")
    begin, end = offsets
    if end - begin != math.prod(shape) * dtype.itemsize:
        raise refusal(adapter_id, f"has {which} of more or fewer bytes than its shape needs")
    return _Entry(dtype, tuple(shape), begin, end)


def _are_counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(number) is int and number >= 0 for number in value)


def _check_tiling(adapter_id: str, entries: Iterable[_Entry], size: int) -> None:
    """Check that every byte belongs to one tensor: none overlap, and nothing hides in a hole or at the end."""
    end = 0
    for entry in sorted(entries, key=lambda entry: entry.begin):
        if entry.begin != end:
            raise refusal(adapter_id, "has tensors that overlap or leave a hole")
        end = entry.end
    if end > size:
        raise refusal(adapter_id, "ends within its tensors")
    if end < size:
        raise refusal(adapter_id, "has bytes after its last tensor")


def _tensor(adapter_id: str, name: str, entry: _Entry, data: bytes, start: int) -> torch.Tensor:
    raw = bytearray(data[start + entry.begin : start + entry.end])  # a copy: aligned, and writable as torch wants it
    tensor = torch.frombuffer(raw, dtype=entry.dtype).view(entry.shape).to(_used_dtype(entry.dtype))
    largest = abs(float(tensor.abs().max()))  # abs before and after: the least int64 has no opposite
    if not largest <= MAX_WEIGHT:  # not `>`: NaN must fail too
        fault = f"a value over {MAX_WEIGHT:g}" if math.isfinite(largest) else "values that are no finite numbers"
        raise refusal(adapter_id, f"has {fault} in tensor {pattern(name)}")
    return tensor


def _used_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.bfloat16 if dtype in SMALL_DTYPES.values() else dtype
