"""``lego-serve tune sparse24``: the layers of a model that leave out half of each row, written beside its weights."""

import shutil
from pathlib import Path

import pytest

from lego_serve.models.loading import load_backbone
from lego_serve.models.ragged.layers import block_layers
from lego_serve.models.registry import ModelSpec
from lego_serve.models.sparse24_files import FILE


@pytest.fixture
def model(tiny_folder: Path, tmp_path: Path) -> Path:
    """A model folder of its own."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


@pytest.fixture
def words(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The options of a small model and lessons of one small image, of two steps."""
    monkeypatch.setattr("lego_serve.tuning.lessons.LESSON_IMAGES", 1)
    (tmp_path / "prompts.txt").write_text("a red circle\na blue square\n")
    config = tmp_path / "config.yaml"
    config.write_text(f'models: {{m: {{path: "{model}", max_sequence_length: 0, dtype: float32, linear: sparse24}}}}\n')
    prompts = ["--prompts", str(tmp_path / "prompts.txt")]
    return ["tune", "sparse24", "--config", str(config), *prompts, "--steps", "4", "--side", "96", "--rank", "3"]


def test_layers_are_found_and_the_model_is_loaded_with_them(command, words, model, tmp_path) -> None:
    """All that a tolerance allows, of the kinds that are asked for; with others trained for a moment besides."""
    code, out, error = command(*words, "--kinds", "second", "--tolerance", "9")
    assert code == 0, error
    spec = ModelSpec("m", str(model), dtype="float32", max_sequence_length=0, linear="sparse24")
    layers = block_layers(vars(load_backbone(spec)[0]))
    sparse = [name for name, layer in layers.items() if layer.kind is not None]
    assert sparse == [name for name in layers if name.endswith("net.2")]
    assert f"{len(sparse)} of {len(sparse)} layers in 2:4, with residuals of rank 3" in " ".join(out.split())
    state = tmp_path / "state"
    code, out, error = command(*words, "--tolerance", "9", "--minutes", "0.02", "--state", str(state))
    assert code == 0, error
    assert "after the training" in out
    assert all(layer.kind is not None for layer in block_layers(vars(load_backbone(spec)[0])).values())
    assert len(list(state.glob("*/lesson*.safetensors"))) >= 3
    assert len(list(state.glob("*/residuals-*.safetensors"))) == 1


def test_no_tolerance_leaves_every_layer_dense(command, words, model) -> None:
    """Which a file says as well, and the model is loaded as it is."""
    code, out, error = command(*words, "--kinds", "out", "--tolerance", "0")
    assert code == 0, error
    assert "0 of 11 layers in 2:4" in " ".join(out.split())
    assert (model / FILE).is_file()
    spec = ModelSpec("m", str(model), dtype="float32", max_sequence_length=0, linear="sparse24")
    assert all(layer.kind is None for layer in block_layers(vars(load_backbone(spec)[0])).values())


def test_a_kind_that_is_none_is_one_line(command, words) -> None:
    """With those that there are."""
    code, _, error = command(*words, "--kinds", "middle")
    assert (code, error.count("\n")) == (1, 1)
    assert "no kind of layer 'middle'; there are qkv, out, first, second" in error
