"""What is wrong with a model folder is one line that names the model, the place and the fault."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lego_serve.errors import CheckpointError
from lego_serve.models.loading import load_backbone, load_text_encoder, load_vae
from lego_serve.models.registry import ModelSpec
from tests.support.tiny_models import miniature

LOADERS: dict[str, Callable[[ModelSpec], Any]] = {
    "text_encoder": load_text_encoder,
    "text_encoder_3": load_text_encoder,
    "transformer": load_backbone,
    "vae": load_vae,
}
CLASSES = {
    "text_encoder": "CLIPTextModelWithProjection",
    "text_encoder_3": "T5EncoderModel",
    "transformer": "SD3Transformer2DModel",
    "vae": "AutoencoderKL",
}
components = pytest.mark.parametrize("name", LOADERS)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A miniature of SD3 medium as a diffusers folder."""
    folder = tmp_path_factory.mktemp("sound")
    miniature("sd3-medium").save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    """A copy of it to damage."""
    return Path(shutil.copytree(sound, tmp_path / "model"))


def complaint(load: Callable[[ModelSpec], Any], path: Path | str) -> str:
    """What a loader says against a place; always one line that names the model."""
    with pytest.raises(CheckpointError) as caught:
        load(ModelSpec("mine", str(path), dtype="float32"))
    assert "\n" not in caught.value.message
    assert caught.value.message.startswith("model mine: ")
    return caught.value.message.removeprefix("model mine: ")


def weights(folder: Path) -> Path:
    """The safetensors file of a component."""
    return next(folder.glob("*.safetensors"))


def rewrite(file: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Write a safetensors file anew with something changed."""
    state = load_file(file)
    change(state)
    save_file(state, file, metadata={"format": "pt"})


def set_keys(file: Path, **values: object) -> None:
    """Change keys of a JSON file; None takes one away."""
    changed = json.loads(file.read_text()) | values
    file.write_text(json.dumps({key: value for key, value in changed.items() if value is not None}))


def test_a_sound_folder_loads(folder: Path) -> None:
    """What the other tests damage loads in full before."""
    spec = ModelSpec("mine", str(folder), dtype="float32")
    assert load_text_encoder(spec).encode(["a red circle"])
    assert load_backbone(spec)[0].shape.pixels_per_latent == 8
    assert load_vae(spec).latent_channels == 8


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    """A path that is no folder, be it nothing or a file, and a built-in model that does not exist."""
    assert complaint(load_vae, tmp_path / "none") == f"no folder {tmp_path / 'none'}"
    (tmp_path / "file").touch()
    assert complaint(load_vae, tmp_path / "file") == f"no folder {tmp_path / 'file'}"
    assert complaint(load_vae, "builtin:none").endswith("weights/none")


@components
def test_a_missing_subfolder_is_named(name: str, folder: Path) -> None:
    """The first file a component needs is missing with it."""
    shutil.rmtree(folder / name)
    assert complaint(LOADERS[name], folder) == f"{folder / name / 'config.json'} is missing"


@pytest.mark.parametrize("name", ["tokenizer", "tokenizer_2", "tokenizer_3"])
def test_a_missing_tokenizer_is_named(name: str, folder: Path) -> None:
    """A tokenizer without a vocabulary is refused as well; it would know no word."""
    for file in (folder / name).glob("tokenizer.json"):
        file.unlink()
    files = "tokenizer.json, vocab.json, spiece.model"
    assert complaint(load_text_encoder, folder) == f"{folder / name} holds none of {files}"
    shutil.rmtree(folder / name)
    assert complaint(load_text_encoder, folder) == f"{folder / name} is missing"


@components
def test_pickled_weights_are_refused(name: str, folder: Path) -> None:
    """A folder with a `.bin` and no safetensors file is not read."""
    file = weights(folder / name)
    torch.save(load_file(file), file.with_suffix(".bin"))
    file.unlink()
    assert complaint(LOADERS[name], folder) == f"{folder / name} holds no .safetensors file"


@components
def test_another_class_is_named_with_the_one_needed(name: str, folder: Path) -> None:
    """config.json says what the weights belong to."""
    config = folder / name / "config.json"
    message = {"architectures": ["Other"]} if name.startswith("text") else {"_class_name": "Other"}
    set_keys(config, **message)
    assert complaint(LOADERS[name], folder) == f"{folder / name} holds Other, {CLASSES[name]} is needed"
    set_keys(config, **dict.fromkeys(message))
    assert complaint(LOADERS[name], folder) == f"{folder / name} holds an unnamed class, {CLASSES[name]} is needed"


def test_another_scheduler_is_named(folder: Path) -> None:
    """The sampler is flow matching's and no other."""
    set_keys(folder / "scheduler" / "scheduler_config.json", _class_name="DDIMScheduler")
    message = complaint(load_backbone, folder)
    assert message == f"{folder / 'scheduler'} holds DDIMScheduler, FlowMatchEulerDiscreteScheduler is needed"


@components
def test_a_weight_of_the_wrong_shape_is_named_with_both_shapes(name: str, folder: Path) -> None:
    """Nothing is initialised anew in its place."""
    shapes = {}

    def cut(state: dict[str, torch.Tensor]) -> None:
        key = next(k for k in sorted(state) if state[k].ndim > 1)
        shapes[key] = list(state[key].shape)
        state[key] = torch.zeros(3, *state[key].shape[1:])

    rewrite(weights(folder / name), cut)
    [(key, shape)] = shapes.items()
    assert complaint(LOADERS[name], folder) == (
        f"{folder / name}: weight {key} has the shape {[3, *shape[1:]]}, {shape} is needed"
    )


@components
@pytest.mark.parametrize("kept", ["half", "five bytes", "nothing", "a pointer"])
def test_a_truncated_file_is_named(name: str, kept: str, folder: Path) -> None:
    """A download that broke off, and git-lfs's pointer in place of a file, are found before anything is built."""
    file = weights(folder / name)
    whole = file.read_bytes()
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
    file.write_bytes({"half": whole[: len(whole) // 2], "five bytes": whole[:5], "a pointer": pointer}.get(kept, b""))
    assert complaint(LOADERS[name], folder).startswith(f"{file} is damaged or incomplete: ")


@components
def test_a_missing_weight_is_named(name: str, folder: Path) -> None:
    """One, or the first of several."""
    file = weights(folder / name)
    first, second = sorted(load_file(file))[:2]
    rewrite(file, lambda state: state.pop(second))
    assert complaint(LOADERS[name], folder) == f"{folder / name} lacks weight {second}"
    rewrite(file, lambda state: state.pop(first))
    assert complaint(LOADERS[name], folder) == f"{folder / name} lacks weight {first} and 1 more"


@components
def test_a_config_that_means_nothing_is_named(name: str, folder: Path) -> None:
    """Broken JSON, a list, and a value of another type."""
    config = folder / name / "config.json"
    key = {"text_encoder": "num_hidden_layers", "vae": "block_out_channels"}.get(name, "num_layers")
    good = config.read_text()
    set_keys(config, **{key: "many"})
    assert complaint(LOADERS[name], folder).startswith(f"{folder / name} does not load: ")
    config.write_text("[]")
    assert complaint(LOADERS[name], folder) == f"{config} holds no JSON object"
    config.write_text(good[: len(good) // 2])
    assert complaint(LOADERS[name], folder).startswith(f"{config} is no JSON: ")


@pytest.mark.parametrize(
    ("load", "file", "key", "kind"),
    [
        (load_text_encoder, "transformer", "joint_attention_dim", "int"),
        (load_backbone, "vae", "block_out_channels", "list"),
    ],
)
def test_a_key_read_from_a_neighbour_is_named(
    load: Callable[[ModelSpec], Any], file: str, key: str, kind: str, folder: Path
) -> None:
    """A component reads one key of another's config.json."""
    config = folder / file / "config.json"
    set_keys(config, **{key: None})
    assert complaint(load, folder) == f"{config} lacks `{key}`, of type {kind}"


def test_a_hub_id_is_fetched_only_when_the_spec_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `fetch: true` an id that is not in the local cache is refused, and the network is left alone."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    message = complaint(load_vae, "nobody/no-model")
    assert message == "nobody/no-model is not on this machine; set `fetch: true` to download it"
    assert complaint(load_vae, "no id/at/all") == "no id/at/all is neither a folder nor a hub id"
