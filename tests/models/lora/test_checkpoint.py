"""An adapter's file: what is read, and that everything else is refused in one line with its id and no path."""

import hashlib
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from lego_serve.errors import InvalidAdapter, NotFound
from lego_serve.models.lora import checkpoint
from lego_serve.models.lora.checkpoint import find_adapter, parse_adapter, pattern, peek_adapter_file, read_adapter_file

GOOD = save({"a.lora_A.weight": torch.ones(2, 3), "a.lora_B.weight": torch.ones(4, 2)}, {"made": "here"})


def raw(header: Any, body: bytes = b"", length: int | None = None) -> bytes:
    """A file of any header, an object or text, and any bytes after it."""
    text = (header if isinstance(header, str) else json.dumps(header)).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def entry(shape: Any = (1,), offsets: Any = (0, 4), dtype: Any = "F32") -> dict[str, Any]:
    """One tensor's line in a header."""
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def zipped() -> bytes:
    """A zip archive, as torch.save writes them."""
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", b"x")
    return buffer.getvalue()


def many(count: int, metadata: dict[str, Any]) -> bytes:
    """A sound file of so many tensors."""
    return raw(metadata | {f"w{i}": entry((1,), (4 * i, 4 * i + 4)) for i in range(count)}, bytes(4 * count))


def values(*numbers: float, dtype: torch.dtype = torch.float32) -> bytes:
    """A file whose first tensor holds these numbers."""
    return save({"w": torch.tensor(numbers, dtype=dtype), "v": torch.ones(2)})


BAD: dict[str, tuple[bytes, str]] = {
    "an empty file": (b"", "empty"),
    "one byte": (b"x", "no safetensors header"),
    "a pickle": (pickle.dumps({"a": 1}, protocol=2), "pickle"),
    "a later pickle": (pickle.dumps({"a": 1}, protocol=5), "pickle"),
    "a zip archive": (zipped(), "zip"),
    "a gzip archive": (b"\x1f\x8b\x08" + bytes(40), "gzip"),
    "a tar archive": (b"a" + bytes(256) + b"ustar\x00" + bytes(300), "tar"),
    "an HDF5 file": (b"\x89HDF\r\n\x1a\n" + bytes(40), "HDF5"),
    "a header of no bytes": (raw("", length=0), "no safetensors header"),
    "a header beyond the file": (raw({"w": entry()}, length=500), "ends within its header"),
    "a header over 1 MiB": (raw("{" + " " * (1 << 20) + "}"), "more than 1 MiB"),
    "a header of 2^63 bytes": (raw("{}", length=1 << 63), "more than 1 MiB"),
    "a header that is no JSON": (raw("{w: 1}"), "no JSON"),
    "a header that is not UTF-8": (struct.pack("<Q", 4) + b'{"\xff}', "no JSON"),
    "a header that is a list": (raw([1, 2]), "no JSON object"),
    "a header with NaN": (raw('{"w": NaN}'), "no JSON"),
    "a header with a number of 5000 digits": (raw('{"w": ' + "9" * 5000 + "}"), "no JSON"),
    "a deep nest": (raw("[" * 100_000), "no JSON"),
    "a deep nest inside": (raw('{"w":' * 90_000 + "1"), "no JSON"),
    "no tensors": (raw({}), "holds no tensors"),
    "metadata alone": (raw({"__metadata__": {"a": "b"}}), "holds no tensors"),
    "metadata of numbers": (raw({"__metadata__": {"a": 1}, "w": entry()}, bytes(4)), "metadata"),
    "metadata that is a list": (raw({"__metadata__": [], "w": entry()}, bytes(4)), "metadata"),
    "duplicate keys": (raw('{"w": %s, "w": %s}' % ((json.dumps(entry()),) * 2), bytes(4)), "twice"),
    "duplicate fields": (raw('{"w": {"dtype": "F32", "dtype": "F16"}}', bytes(4)), "twice"),
    "4097 tensors": (many(4097, {}), "more than 4096"),
    "4097 tensors and metadata": (many(4097, {"__metadata__": {"made": "here"}}), "more than 4096"),
    "an entry that is text": (raw({"w": "x"}), "does not describe"),
    "an entry with more fields": (raw({"w": entry() | {"more": 1}}, bytes(4)), "does not describe"),
    "an unknown dtype": (raw({"w": entry(dtype="F99")}, bytes(4)), "dtype"),
    "a dtype of integers": (raw({"w": entry(dtype="I32")}, bytes(4)), "dtype"),
    "a dtype that is a list": (raw({"w": entry(dtype=["F32"])}, bytes(4)), "dtype"),
    "a negative side": (raw({"w": entry((-1,))}, bytes(4)), "shape"),
    "a side of none": (raw({"w": entry((0, 4), (0, 0))}), "shape"),
    "a side that is true": (raw({"w": entry((True,))}, bytes(4)), "shape"),
    "a shape that overflows": (raw({"w": entry((2**32, 2**32))}, bytes(4)), "shape"),
    "five sides": (raw({"w": entry((1, 1, 1, 1, 1))}, bytes(4)), "shape"),
    "negative offsets": (raw({"w": entry((1,), (-4, 0))}, bytes(4)), "place"),
    "three offsets": (raw({"w": entry((1,), (0, 4, 8))}, bytes(4)), "place"),
    "offsets backwards": (raw({"w": entry((1,), (4, 0))}, bytes(4)), "bytes than its shape"),
    "too few bytes for the shape": (raw({"w": entry((2,), (0, 4))}, bytes(4)), "bytes than its shape"),
    "an overlap": (raw({"w": entry(), "v": entry((1,), (2, 6))}, bytes(6)), "overlap"),
    "two of one place": (raw({"w": entry(), "v": entry()}, bytes(4)), "overlap"),
    "a hole": (raw({"w": entry((1,), (4, 8))}, bytes(8)), "hole"),
    "bytes at the end": (raw({"w": entry()}, bytes(8)), "after its last tensor"),
    "an end within a tensor": (GOOD[:-1], "ends within its tensors"),
    "NaN": (values(1.0, float("nan")), "no finite numbers"),
    "infinity": (values(float("-inf"), 1.0), "no finite numbers"),
    "NaN in bf16": (values(1.0, float("nan"), dtype=torch.bfloat16), "no finite numbers"),
    "a huge weight": (values(-1.1e4), "over 10000"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    """As the caller's fault, naming the adapter and the fault, with no path, value or library's words."""
    data, fault = BAD[kind]
    path = tmp_path / "sample.safetensors"
    path.write_bytes(data)
    with pytest.raises(InvalidAdapter, match=fault) as caught:
        read_adapter_file("sample", path)
    message = caught.value.message
    assert message.startswith("Adapter sample ")
    assert len(message.splitlines()) == 1
    assert len(message) < 250
    assert not any(word in message for word in (str(tmp_path), ".safetensors", "Traceback", "0x"))
    assert (caught.value.status, caught.value.code) == (400, "invalid_adapter")


@pytest.mark.parametrize("kind", BAD)
def test_a_header_tells_all_that_is_wrong_but_with_values(kind: str, tmp_path: Path) -> None:
    """In the same words."""
    data, fault = BAD[kind]
    path = tmp_path / "sample.safetensors"
    path.write_bytes(data)
    if kind in ("NaN", "infinity", "NaN in bf16", "a huge weight"):
        peek_adapter_file("sample", path)
        return
    with pytest.raises(InvalidAdapter) as peeked:
        peek_adapter_file("sample", path)
    with pytest.raises(InvalidAdapter, match=fault) as whole:
        read_adapter_file("sample", path)
    assert peeked.value.message == whole.value.message


def test_a_good_file_is_read_whole(tmp_path: Path) -> None:
    """Its tensors, its metadata, its size, and the hash of its bytes."""
    path = tmp_path / "good.safetensors"
    path.write_bytes(GOOD)
    file = read_adapter_file("good", path)
    assert file.sha256 == hashlib.sha256(GOOD).hexdigest()
    assert file.size_bytes == len(GOOD)
    assert dict(file.metadata) == {"made": "here"}
    assert {name: tuple(tensor.shape) for name, tensor in file.tensors.items()} == {
        "a.lora_A.weight": (2, 3), "a.lora_B.weight": (4, 2)
    }  # fmt: skip


@pytest.mark.parametrize("metadata", [{}, {"__metadata__": {"made": "here"}}], ids=["no metadata", "metadata"])
def test_4096_tensors_are_not_too_many(metadata: dict[str, Any]) -> None:
    """Metadata is none of them."""
    assert len(parse_adapter("good", many(4096, metadata)).tensors) == 4096


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_every_value_arrives(dtype: torch.dtype) -> None:
    """In each dtype, tensors that begin at odd places too."""
    draw = torch.Generator().manual_seed(0)
    tensors = {"a": torch.randn(3, generator=draw).bfloat16(), "b": torch.randn(5, 7, generator=draw).to(dtype)}
    found = parse_adapter("good", save(tensors)).tensors
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


def test_a_large_file_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its size alone."""
    path = tmp_path / "large.safetensors"
    with path.open("wb") as file:
        file.truncate(checkpoint.MAX_FILE_BYTES + 1)
    with pytest.raises(InvalidAdapter, match="larger than 512 MiB"):
        read_adapter_file("large", path)


@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_only_a_regular_file_is_read(kind: str, tmp_path: Path) -> None:
    """A link is not followed, and nothing waits for a pipe."""
    (tmp_path / "target").write_bytes(GOOD)
    path = tmp_path / "odd.safetensors"
    make: dict[str, Callable[[], Any]] = {
        "link": lambda: path.symlink_to(tmp_path / "target"), "folder": path.mkdir, "pipe": lambda: os.mkfifo(path)
    }  # fmt: skip
    make[kind]()
    with pytest.raises(InvalidAdapter, match="Adapter odd"):
        read_adapter_file("odd", path)


def test_a_file_that_changes_after_it_was_opened_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is hashed, checked and used are the bytes of one read of one descriptor."""
    path = tmp_path / "good.safetensors"
    path.write_bytes(GOOD)
    check = checkpoint._check_kind

    def swap(adapter_id: str, data: bytes) -> None:
        path.unlink()
        path.write_bytes(values(float("nan")))
        check(adapter_id, data)

    monkeypatch.setattr(checkpoint, "_check_kind", swap)
    file = read_adapter_file("good", path)
    assert file.sha256 == hashlib.sha256(GOOD).hexdigest()
    assert all(bool(torch.isfinite(tensor).all()) for tensor in file.tensors.values())


@pytest.mark.parametrize(
    "name",
    [
        "../good",
        "/etc/passwd",
        "~/good",
        "%2e%2e",
        "a\\b",
        "a\0b",
        "file://good",
        "Good",
        "",
        "a" * 65,
        "a/b",
        "good\n",
    ],
)
def test_a_name_that_is_none_is_not_found(name: str, tmp_path: Path) -> None:
    """Ids are ids and never paths; the message does not repeat them."""
    with pytest.raises(NotFound) as caught:
        find_adapter(name, [tmp_path])
    assert not name or name not in caught.value.message


def test_an_adapter_is_found_in_the_first_root_that_has_it(tmp_path: Path) -> None:
    """And not found where no root has it."""
    for root in ("one", "two"):
        (tmp_path / root).mkdir()
    (tmp_path / "two" / "good.safetensors").write_bytes(GOOD)
    roots = [tmp_path / "one", tmp_path / "two"]
    assert find_adapter("good", roots).size_bytes == len(GOOD)
    with pytest.raises(NotFound, match="no adapter other"):
        find_adapter("other", roots)


def test_an_adapter_is_found_in_a_folder_that_diffusers_wrote(tmp_path: Path) -> None:
    """Under the name diffusers gives the file."""
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / "pytorch_lora_weights.safetensors").write_bytes(GOOD)
    assert find_adapter("good", [tmp_path]).size_bytes == len(GOOD)


@pytest.mark.parametrize("place", ["good.safetensors", "good"])
def test_a_link_out_of_a_root_is_refused(place: str, tmp_path: Path) -> None:
    """A file or a folder, wherever it points."""
    for name in ("root", "secret"):
        (tmp_path / name).mkdir()
    (tmp_path / "secret" / "pytorch_lora_weights.safetensors").write_bytes(GOOD)
    target = tmp_path / "secret" if place == "good" else tmp_path / "secret" / "pytorch_lora_weights.safetensors"
    (tmp_path / "root" / place).symlink_to(target)
    with pytest.raises(InvalidAdapter, match="link"):
        find_adapter("good", [tmp_path / "root"])


@settings(max_examples=300)
@given(at=st.integers(0, len(GOOD) - 1), value=st.integers(0, 255), cut=st.integers(0, 12))
def test_a_changed_file_is_read_or_refused(at: int, value: int, cut: int) -> None:
    """Whatever byte is changed, and wherever it ends: nothing but our own error comes out."""
    data = bytearray(GOOD[: len(GOOD) - cut])
    data[min(at, len(data) - 1)] = value
    with suppress(InvalidAdapter):
        parse_adapter("odd", bytes(data))


@given(key=st.text())
def test_a_name_in_a_message_is_plain_and_short(key: str) -> None:
    """Whatever the file says."""
    assert all(c.isascii() and (c.isalnum() or c in "_.?") for c in pattern(key))
    assert len(pattern(key)) <= 100
