"""The bytes of weights before they are loaded: all of them, or an error, never too few."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from lego_serve.errors import CheckpointError
from lego_serve.models.loading import load_text_encoder
from lego_serve.models.registry import ModelSpec
from lego_serve.models.weights_size import controlnet_bytes, weights_bytes
from lego_serve.serving.nodes.tensors import weights_bytes as bytes_of_tensors

FILE = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of a model's folder that may be changed."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def spec(folder: Path, **more: object) -> ModelSpec:
    """Its specification."""
    return ModelSpec("m", str(folder), dtype="float32", **more)  # type: ignore[arg-type]


def shard(folder: Path) -> Path:
    """Make two files and an index of a component's one; returns the second file."""
    weights = load_file(folder / FILE)
    (folder / FILE).unlink()
    names, files = sorted(weights), ("part-1.safetensors", "part-2.safetensors")
    shards = {files[0]: names[::2], files[1]: names[1::2]}
    for file, chosen in shards.items():
        save_file({name: weights[name] for name in chosen}, folder / file, metadata={"format": "pt"})
    index = {"weight_map": {name: file for file, chosen in shards.items() for name in chosen}}
    (folder / f"{FILE}.index.json").write_text(json.dumps(index))
    return folder / files[1]


def test_it_is_what_the_weights_take_once_loaded(folder: Path) -> None:
    """All text encoders of a model together; the third one counts only where there is one."""
    loaded = bytes_of_tensors(load_text_encoder(spec(folder)))
    assert 0 <= loaded - weights_bytes(spec(folder), "text_encoder") < 4096, "but for a few tables"


def test_a_model_in_shards_is_as_large_and_one_without_a_shard_is_refused(folder: Path) -> None:
    """By the name of what is missing: what is there would be too little."""
    whole = weights_bytes(spec(folder), "backbone")
    second = shard(folder / "transformer")
    assert weights_bytes(spec(folder), "backbone") == whole > 0
    second.unlink()
    with pytest.raises(CheckpointError, match=r"lacks part-2.safetensors, which .*index.json names"):
        weights_bytes(spec(folder), "backbone")


@pytest.mark.parametrize("gone", ["", "vae", f"vae/{FILE}"])
def test_what_is_not_there_takes_no_bytes_but_an_error(folder: Path, gone: str) -> None:
    """The model, a component of it, or its weights: a mount may be away and come back."""
    shutil.move(folder / gone, folder.parent / "away")
    with pytest.raises(CheckpointError, match=r"is it mounted\?|no folder"):
        weights_bytes(spec(folder), "vae")


def test_one_text_encoder_of_two_is_not_enough(folder: Path) -> None:
    """Though the other one has bytes."""
    shutil.rmtree(folder / "text_encoder_2")
    with pytest.raises(CheckpointError, match=r"text_encoder_2 holds no .safetensors"):
        weights_bytes(spec(folder), "text_encoder")


def test_a_flux_model_has_two_text_encoders(flux_folder: Path) -> None:
    """Which need no third one, as long as a prompt may be."""
    assert weights_bytes(spec(flux_folder, family="flux"), "text_encoder") > 0


def test_a_controlnet_is_its_folder(folder: Path) -> None:
    """And refused likewise."""
    net = folder / "transformer"
    assert controlnet_bytes(spec(net)) == weights_bytes(spec(folder), "backbone")
    (net / FILE).unlink()
    with pytest.raises(CheckpointError, match="is it mounted"):
        controlnet_bytes(spec(net))
