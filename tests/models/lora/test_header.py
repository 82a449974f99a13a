"""A header of any length is read within a bound of memory and of time, and says what it said."""

import json
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from lego_serve.errors import InvalidAdapter
from lego_serve.models.lora.checkpoint import parse_adapter, peek_adapter_file, read_adapter_file
from lego_serve.models.lora.header import (
    MAX_KEPT_BYTES,
    MAX_NOTE_BYTES,
    PEFT_METADATA,
    HeaderTooLong,
    without_long_notes,
)
from lego_serve.models.lora.loading import summary_of
from tests.support.lora.unsound import entry, raw

MIB = 1 << 20


def cut(data: bytes, size: int) -> Iterator[bytes]:
    """Yield bytes in pieces."""
    return (data[i : i + size] for i in range(0, len(data), size))


def notes(size: int) -> str:
    """Training notes of about so many bytes, as kohya's trainer writes them: JSON within JSON."""
    return json.dumps({"img": {f"tag number {n}": n for n in range(size // 20)}})


TEXTS = st.text(max_size=40) | st.sampled_from(['"', "\\", '\\"', "\\\\", "é\u2028", "a" * (MAX_NOTE_BYTES + 1)])
VALUES = st.recursive(
    TEXTS | st.integers() | st.booleans(), lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner)
)


def shortened(value: object) -> object:
    """Return a value with empty text in the place of long text."""
    match value:
        case str():
            return "" if len(json.dumps(value)) - 2 > MAX_NOTE_BYTES else value
        case list():
            return [shortened(inner) for inner in value]
        case dict():
            return {str(shortened(key)): shortened(inner) for key, inner in value.items()}
        case _:
            return value


@given(value=VALUES, size=st.integers(1, 50))
def test_json_loses_its_long_texts_and_nothing_else(value: object, size: int) -> None:
    """Whatever quotes and escapes are in it, and wherever its pieces end."""
    assert json.loads(without_long_notes(cut(json.dumps(value).encode(), size))) == shortened(value)


@given(data=st.binary(max_size=200), size=st.integers(1, 50))
def test_what_is_no_json_stays_none(data: bytes, size: int) -> None:
    """Short bytes come back as they are, but for a quote that a text without an end gains at its beginning."""
    kept = without_long_notes(cut(data, size))
    assert kept.startswith(data[: data.rfind(b'"')] if b'"' in data else data)


def test_peft_settings_stay_whole() -> None:
    """They say the scale of every layer."""
    settings = json.dumps({"transformer.alpha_pattern": {f"layer.{n}": n for n in range(10_000)}})
    header = json.dumps({"__metadata__": {PEFT_METADATA: settings, "other": settings}}).encode()
    assert json.loads(without_long_notes([header])) == {"__metadata__": {PEFT_METADATA: settings, "other": ""}}


@pytest.mark.parametrize(
    "header",
    [
        b'{"__metadata__": {' + b",".join(b'"note %d": "%b"' % (i, b"x" * 4000) for i in range(300)) + b"}}",
        b'""' * MIB,
        b" " * (MAX_KEPT_BYTES + 1),
        b'{"lora_adapter_metadata": "' + b"x" * 2 * MIB + b'"}',
    ],
    ids=["many notes", "empty texts", "spaces", "PEFT settings"],
)
def test_what_is_left_without_long_notes_is_bounded(header: bytes) -> None:
    """Of any kind."""
    with pytest.raises(HeaderTooLong):
        without_long_notes(cut(header, MIB))


@pytest.mark.parametrize("size", [2 * MIB, 20 * MIB])
def test_a_header_of_megabytes_of_notes_is_taken(size: int, tmp_path: Path) -> None:
    """The tensors and the short notes are the file's, and what is over 4 KiB is empty; listing it works too."""
    path = tmp_path / "trained.safetensors"
    tensors = {"a.lora_A.weight": torch.ones(2, 3), "a.lora_B.weight": torch.ones(4, 2)}
    save_file(tensors, path, {"ss_tag_frequency": notes(size), "ss_base_model_version": "sd3"})
    assert int.from_bytes(path.read_bytes()[:8], "little") > size
    for file in (read_adapter_file("trained", path), peek_adapter_file("trained", path)):
        assert dict(file.metadata) == {"ss_tag_frequency": "", "ss_base_model_version": "sd3"}
        assert file.tensors.keys() == tensors.keys()
    assert summary_of("trained", path).rank == 2


def test_a_long_header_takes_little_memory_and_time(tmp_path: Path) -> None:
    """Some pieces of a MiB for 50 MB of notes full of escaped quotes, and less than 100 ms of work a MB."""
    path = tmp_path / "trained.safetensors"
    note = '\\"tag\\": 1, ' * 4_000_000
    header = f'{{"__metadata__": {{"notes": "{note}"}}, "w": {json.dumps(entry())}}}'
    path.write_bytes(raw(header, bytes(4)))
    del note, header
    tracemalloc.start()
    began_s = time.process_time()
    assert peek_adapter_file("trained", path).tensors.keys() == {"w"}
    spent_s, (_, peak) = time.process_time() - began_s, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 * MIB
    assert spent_s < 5.0


@pytest.mark.parametrize(
    ("length", "words"),
    [(100_000_001, "a header of 100 MB, where safetensors allows 100"), (123_456_789, "a header of 123 MB")],
)
def test_a_header_past_the_format_is_refused_by_its_metadata(length: int, words: str) -> None:
    """For nothing else makes it so long."""
    with pytest.raises(InvalidAdapter, match=f"has {words}.*its metadata is too long, or it is not safetensors"):
        parse_adapter("trained", raw("{}", length=length))


def test_many_short_notes_are_refused_by_the_metadata() -> None:
    """They are what is long then."""
    header = {"__metadata__": {f"note {i}": "x" * 4000 for i in range(300)}, "w": entry()}
    with pytest.raises(InvalidAdapter, match="more than 1 MiB even without its long notes: its metadata has too many"):
        parse_adapter("trained", raw(header, bytes(4)))
