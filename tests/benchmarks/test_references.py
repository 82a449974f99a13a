"""The benchmark of references: what it times and counts, over hand-written deployments."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks import references
from lego_serve.core.nodes.messages import TextEncodeOutput
from lego_serve.core.values import Ref

POOLED_BYTES = 4 * references.POOLED


class FakeEncoder:
    """Embeddings that take no memory, by value or by reference."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int, bool]] = []
        self.encode = SimpleNamespace(remote=self._encode)

    async def _encode(self, tokens: int, width: int, by_reference: bool) -> TextEncodeOutput:
        self.calls.append((tokens, width, by_reference))
        array = np.broadcast_to(np.float32(1), (tokens, width))
        pooled = np.zeros(references.POOLED, np.float32)
        return TextEncodeOutput(Ref("r", array.nbytes) if by_reference else array, pooled)


class FakeDenoiser:
    """Reads nothing, and notes how much it is given."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.read = SimpleNamespace(remote=self._read)

    async def _read(self, conds: list[TextEncodeOutput]) -> float:
        self.sizes.append(len(conds))
        return 0.0


async def test_arrays_pass_the_caller_twice_by_value_and_not_by_reference() -> None:
    """Two embeddings of a request, each here and on from here; the small pooled ones in any case."""
    denoiser = FakeDenoiser()
    handles = (FakeEncoder(), denoiser)
    _, by_value = await references.request(handles, 10, 100, False)
    _, by_reference = await references.request(handles, 10, 100, True)
    assert by_value == 4 * (4000 + POOLED_BYTES)
    assert by_reference == 4 * POOLED_BYTES
    assert denoiser.sizes == [2, 2]


async def test_both_ways_take_turns_and_the_first_rounds_do_not_count() -> None:
    """Three rounds warm up."""
    encoder = FakeEncoder()
    found = await references.medians((encoder, FakeDenoiser()), 1, 8, rounds=2)
    assert [by_reference for *_, by_reference in encoder.calls[::2]] == [False, True] * 5
    assert all(seconds > 0 for seconds, _ in found.values())


def test_each_size_has_a_row_and_the_last_is_of_sd35(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The threshold in use is printed below."""

    @contextmanager
    def deployments() -> Iterator[tuple[FakeEncoder, FakeDenoiser]]:
        yield FakeEncoder(), FakeDenoiser()

    monkeypatch.setattr(references, "deployments", deployments)
    file = tmp_path / "rows.json"
    result = CliRunner().invoke(references.app, ["--rounds", "1", "--json", str(file)])
    assert result.exit_code == 0, result.output
    rows = json.loads(file.read_text())
    assert [row["tokens"] for row in rows] == [*(f"{size} KiB" for size in references.SIZES), "SD3.5"]
    assert rows[0]["by_value"][1] == 4 * (4096 + POOLED_BYTES)
    assert rows[-1]["by_value"][1] == 4 * (4 * references.TOKENS * references.WIDTH + POOLED_BYTES)
    assert {row["by_reference"][1] for row in rows} == {4 * POOLED_BYTES}
    assert "1,048,576 bytes" in result.output
