"""An adapter's file: what is read, and that everything else is refused in one line with its id and no path."""

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from lego_serve.errors import InvalidAdapter, NotFound
from lego_serve.models.lora import checkpoint
from lego_serve.models.lora.checkpoint import parse_adapter, pattern, peek_adapter_file, read_adapter_file
from lego_serve.models.lora.roots import find_adapter
from tests.support.lora.unsound import BAD, GOOD, many, values


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
        "a.lora_A.weight": (2, 3),
        "a.lora_B.weight": (4, 2),
    }


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
        "link": lambda: path.symlink_to(tmp_path / "target"),
        "folder": path.mkdir,
        "pipe": lambda: os.mkfifo(path),
    }
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
