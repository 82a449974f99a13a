"""The digest of weights: the same for a copy, another for other weights, whatever their size."""

import os
import shutil
import time
from pathlib import Path

import pytest

from lego_serve.models.weights_digest import WHOLE_BYTES, file_versions, weights_digest

PARTS = ("transformer", "scheduler")


def folder_with(root: Path, weights: bytes) -> Path:
    """A model whose transformer has these weights."""
    for part in PARTS:
        (root / part).mkdir(parents=True)
        (root / part / "config.json").write_text("{}")
    (root / "transformer" / "model.safetensors").write_bytes(weights)
    return root


def test_a_copy_has_the_same_digest(tmp_path: Path) -> None:
    """Wherever it lies and whenever it was made."""
    model = folder_with(tmp_path / "a", b"weights")
    shutil.copytree(model, tmp_path / "b")
    assert weights_digest(model, PARTS) == weights_digest(tmp_path / "b", PARTS)


@pytest.mark.parametrize("size", [100, 3 * WHOLE_BYTES])
def test_other_weights_of_the_same_size_have_another(tmp_path: Path, size: int) -> None:
    """A file too large to be read whole is sampled from its first byte to its last."""
    zeros = folder_with(tmp_path / "a", bytes(size))
    last = folder_with(tmp_path / "b", bytes(size - 1) + b"x")
    trained = folder_with(tmp_path / "c", b"y" * size)
    assert len({weights_digest(each, PARTS) for each in (zeros, last, trained)}) == 3


def test_another_schedule_is_another_model(tmp_path: Path) -> None:
    """The steps that a lane takes are the scheduler's."""
    model = folder_with(tmp_path / "a", b"weights")
    before = weights_digest(model, PARTS)
    (model / "scheduler" / "config.json").write_text('{"shift": 3.0}')
    assert weights_digest(model, PARTS) != before


def test_files_tell_that_they_were_replaced_once_that_would_show(tmp_path: Path) -> None:
    """Also where size and time are as they were; what was just written may be written again and look the same."""
    folder = folder_with(tmp_path / "a", b"one")
    later_s = time.time() + 60
    assert file_versions([folder], time.time()) is None
    before = file_versions([folder], later_s)
    assert before == file_versions([folder], later_s)
    assert before is not None
    file = next(path for path in before if path.suffix == ".safetensors")
    about = file.stat()
    other = file.with_suffix(".part")
    other.write_bytes(file.read_bytes()[::-1])
    os.utime(other, ns=(about.st_atime_ns, about.st_mtime_ns))
    other.replace(file)
    after = file_versions([folder], later_s)
    assert after is not None
    assert {path for path in before if before[path] != after[path]} == {file}
    file.unlink()
    assert file_versions([folder], later_s) != after
