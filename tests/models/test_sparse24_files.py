"""The file of layers in 2:4 beside a model's weights: read as it was written, and refused where it does not fit."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lego_serve.errors import CheckpointError
from lego_serve.models.loading import computed_revision, load_backbone
from lego_serve.models.ragged.layers import block_layers
from lego_serve.models.ragged.linear_kinds.sparse24_rows import Residual, Sparse24Rows
from lego_serve.models.registry import ModelSpec
from lego_serve.models.sparse24_files import FILE, FORMAT, load_sparse24, read_sparse24, write_sparse24
from lego_serve.models.weights_digest import denoiser_digest

LAYER = "transformer.transformer_blocks.1.ff.net.2"
DRAWN = {LAYER: Residual(torch.randn(512, 3), torch.randn(3, 128))}


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A model folder of its own."""
    shutil.copytree(tiny_folder, tmp_path / "model")
    return tmp_path / "model"


def spec(folder: Path) -> ModelSpec:
    """The model of a folder, in 2:4."""
    return ModelSpec("m", str(folder), dtype="float32", max_sequence_length=0, linear="sparse24")


def test_residuals_are_read_as_they_were_written(tmp_path: Path) -> None:
    """By layer, and nothing is left beside the file."""
    write_sparse24(DRAWN, "abc", tmp_path / FILE)
    found = read_sparse24(tmp_path / FILE, "abc")
    assert found.keys() == DRAWN.keys()
    assert torch.equal(found[LAYER].a, DRAWN[LAYER].a)
    assert torch.equal(found[LAYER].b, DRAWN[LAYER].b)
    assert list(tmp_path.iterdir()) == [tmp_path / FILE]


def test_a_file_of_other_weights_is_refused(tmp_path: Path) -> None:
    """As a damaged one is, one of another format, and none."""
    file = tmp_path / FILE
    write_sparse24(DRAWN, "abc", file)
    with pytest.raises(ValueError, match="made for other weights"):
        read_sparse24(file, "abd")
    FORMAT.write({"1.weight": torch.ones(2)}, "abc", file)
    with pytest.raises(ValueError, match=r"cannot be read as layers in 2:4: it has no '1\.a'"):
        read_sparse24(file, "abc")
    replace(FORMAT, version="0").write({}, "abc", file)
    with pytest.raises(ValueError, match="cannot be read as layers in 2:4: it is not of format 1"):
        read_sparse24(file, "abc")
    write_sparse24(DRAWN, "abc", file)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match="cannot be read as layers in 2:4"):
        read_sparse24(file, "abc")
    with pytest.raises(ValueError, match="cannot be read as layers in 2:4"):
        read_sparse24(tmp_path / "none", "abc")


def test_a_model_is_loaded_with_the_layers_of_the_file(folder: Path) -> None:
    """Others stay dense; without the file, or with one of another model, it is not loaded."""
    with pytest.raises(CheckpointError, match=r"model m: .* does not lie .*`lego-serve tune sparse24` makes"):
        load_backbone(spec(folder))
    weights = denoiser_digest(folder)
    write_sparse24(DRAWN, weights, folder / FILE)
    layers = block_layers(vars(load_backbone(spec(folder))[0]))
    [(path, kind)] = [(path, layer.kind) for path, layer in layers.items() if layer.kind is not None]
    assert path == LAYER
    assert isinstance(kind, Sparse24Rows)
    assert torch.equal(kind.down, DRAWN[LAYER].a.T)
    assert all(
        layer.kind is None
        for layer in block_layers(vars(load_backbone(replace(spec(folder), linear="dense"))[0])).values()
    )
    write_sparse24({"transformer.x": DRAWN[LAYER]}, weights, folder / FILE)
    with pytest.raises(CheckpointError, match=r"model m: .* transformer\.x, no layer of its blocks"):
        load_backbone(spec(folder))
    write_sparse24(DRAWN, "abc", folder / FILE)
    with pytest.raises(CheckpointError, match=r"model m: its layers in 2:4 cannot be had: .* made for other weights"):
        load_backbone(spec(folder))


def test_a_model_of_the_hub_has_no_such_file(folder: Path) -> None:
    """Only a folder has one; the message says that it is missing."""
    backbone, _ = load_backbone(replace(spec(folder), linear="dense"))
    with pytest.raises(CheckpointError, match="does not lie beside its weights"):
        load_sparse24(replace(spec(folder), path="someone/model"), backbone)


def test_lanes_go_on_only_with_the_same_layers_and_residuals(folder: Path) -> None:
    """A checkpoint is of a revision; another file makes another one, as another kind of layer does."""
    weights, dense = denoiser_digest(folder), replace(spec(folder), linear="dense")
    write_sparse24(DRAWN, weights, folder / FILE)
    first = computed_revision(spec(folder), "abc")
    assert first == computed_revision(spec(folder), "abc")
    write_sparse24({LAYER: Residual(DRAWN[LAYER].a + 1, DRAWN[LAYER].b)}, weights, folder / FILE)
    others = [computed_revision(replace(dense, linear=kind), "abc") for kind in ("dense", "int8", "fp8", "sparse24")]
    assert others[:3] == ["abc", "abc int8", "abc fp8"]
    assert first.startswith("abc sparse24 ")
    assert others[3].startswith("abc sparse24 ")
    assert others[3] != first
