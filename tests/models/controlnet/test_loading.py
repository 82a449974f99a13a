"""What is wrong with a ControlNet's folder is one line that names it, and the base model where both are to blame."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel
from safetensors.torch import load_file, save_file

from lego_serve.errors import CheckpointError
from lego_serve.models.controlnet.loading import load_controlnet
from lego_serve.models.registry import ModelSpec
from tests.support.tiny_models import control_miniature, flux_control_miniature, flux_miniature


@pytest.fixture(scope="module")
def transformer(tiny_folder: Path) -> SD3Transformer2DModel:
    """lego-tiny's backbone."""
    return SD3Transformer2DModel.from_pretrained(tiny_folder / "transformer")


@pytest.fixture
def folder(transformer: SD3Transformer2DModel, tmp_path: Path) -> Path:
    """A sound ControlNet for it, to damage."""
    control_miniature(transformer).save_pretrained(tmp_path / "net")
    return tmp_path / "net"


def complaint(folder: Path | str, base: Path, family: str = "sd3") -> str:
    """The error message for a folder; always one line that names the ControlNet."""
    with pytest.raises(CheckpointError) as caught:
        load_controlnet(
            ModelSpec("edges", str(folder), dtype="float32"), ModelSpec("base", str(base), family, dtype="float32")
        )
    assert "\n" not in caught.value.message
    assert caught.value.message.startswith("model edges: ")
    return caught.value.message.removeprefix("model edges: ")


def remade(folder: Path, transformer: Any, **changes: Any) -> Path:
    """The ControlNet with another shape."""
    control_miniature(transformer, **changes).save_pretrained(folder)
    return folder


def test_a_sound_folder_loads(folder: Path, tiny_folder: Path) -> None:
    """With the form its config says: two of the backbone's six blocks, and a projection for each residual."""
    spec, base = ModelSpec("edges", str(folder), dtype="float32"), ModelSpec("base", str(tiny_folder), dtype="float32")
    form = load_controlnet(spec, base).spec
    assert (form.name, form.width, form.doubles, form.singles, form.channels) == ("edges", 128, 2, 0, 8)
    assert form.share == pytest.approx(2 * (13 / 12) / 6)


def test_extra_channels_are_part_of_the_image(
    folder: Path, transformer: SD3Transformer2DModel, tiny_folder: Path
) -> None:
    """An inpainting ControlNet reads latents and a mask."""
    remade(folder, transformer, extra_conditioning_channels=1)
    spec, base = ModelSpec("edges", str(folder), dtype="float32"), ModelSpec("base", str(tiny_folder), dtype="float32")
    assert load_controlnet(spec, base).spec.channels == 9


def test_missing_files_are_named(folder: Path, tiny_folder: Path, tmp_path: Path) -> None:
    """No folder, no config, no weights, weights cut off."""
    assert complaint(tmp_path / "none", tiny_folder) == f"no folder {tmp_path / 'none'}"
    file = next(folder.glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-100])
    assert "is damaged or incomplete" in complaint(folder, tiny_folder)
    file.unlink()
    assert complaint(folder, tiny_folder) == f"{folder} holds no .safetensors file"
    (folder / "config.json").unlink()
    assert complaint(folder, tiny_folder) == f"{folder / 'config.json'} is missing"


def test_another_class_is_named(folder: Path, tiny_folder: Path) -> None:
    """A folder of something else, and a FLUX ControlNet for an SD3 model."""
    for other in ("SD3Transformer2DModel", "FluxControlNetModel"):
        config = json.loads((folder / "config.json").read_text()) | {"_class_name": other}
        (folder / "config.json").write_text(json.dumps(config))
        assert complaint(folder, tiny_folder) == f"{folder} holds {other}, SD3ControlNetModel is needed"


def test_another_width_names_both_models(folder: Path, transformer: SD3Transformer2DModel, tiny_folder: Path) -> None:
    """A ControlNet for a wider backbone, other text, other latents or other patches."""
    remade(folder, transformer, num_attention_heads=5, caption_projection_dim=160)
    assert complaint(folder, tiny_folder) == f"{folder} has width 160, its base model base has 128"
    remade(folder, transformer, joint_attention_dim=48)
    assert complaint(folder, tiny_folder) == f"{folder} has joint_attention_dim 48, its base model base has 192"
    remade(folder, transformer, in_channels=4)
    assert complaint(folder, tiny_folder) == f"{folder} has in_channels 4, its base model base has 8"
    remade(folder, transformer, patch_size=4)
    assert complaint(folder, tiny_folder) == f"{folder} has patch_size 4, its base model base has 2"


def test_a_weight_of_another_shape_or_none_is_named(folder: Path, tiny_folder: Path) -> None:
    """The weight, the shape it has and the one it needs."""
    file = next(folder.glob("*.safetensors"))
    state = load_file(file)
    name = "controlnet_blocks.1.bias"
    save_file(state | {name: torch.zeros(3)}, file, metadata={"format": "pt"})
    assert complaint(folder, tiny_folder) == f"{folder}: weight {name} has the shape [3], [128] is needed"
    save_file({key: weight for key, weight in state.items() if key != name}, file, metadata={"format": "pt"})
    assert complaint(folder, tiny_folder) == f"{folder} lacks weight {name}"


def test_a_flux_controlnet_of_another_width_names_both(tmp_path: Path) -> None:
    """FLUX's as well; a ControlNet for SD3 is another class."""
    pipeline = flux_miniature("flux-dev")
    pipeline.save_pretrained(tmp_path / "base")
    transformer: FluxTransformer2DModel = pipeline.transformer
    flux_control_miniature(transformer, num_attention_heads=3).save_pretrained(tmp_path / "net")
    message = complaint(tmp_path / "net", tmp_path / "base", "flux")
    assert message == f"{tmp_path / 'net'} has width 48, its base model base has 64"
