import json
from pathlib import Path

import pytest
import torch
import yaml

from lego_serve.served_workflows import configured
from loadgen.edits.plan import EDITS, EditsPlan
from loadgen.edits.server_config import edits_config, edits_weights
from loadgen.server_config import with_backbones

CONFIG = """
models:
  lego-tiny:
    path: builtin:lego-tiny
    max_sequence_length: 0
    nodes: {backbone: {replicas: {min: 2, max: 2}}}
    adapters: {roots: ["builtin:adapters"]}
    controlnets: {lego-tiny-outline: {path: "builtin:lego-tiny-outline"}}
"""


def config_file(folder: Path) -> Path:
    config = folder / "tiny.yaml"
    config.write_text(CONFIG)
    return config


def plan(name: str) -> EditsPlan:
    return EDITS[name].plan


def test_room_for_templates_is_all_that_changes(tmp_path: Path) -> None:
    """At the sizes the shipped model makes, the configuration is the user's but for that."""
    derived = edits_config(config_file(tmp_path), "lego-tiny", tmp_path, plan("edits-tryon"), tmp_path)
    derived_config, before = (yaml.safe_load(each.read_text()) for each in (derived, tmp_path / "tiny.yaml"))
    assert derived_config["models"]["lego-tiny"]["nodes"]["backbone"].pop("template_bytes") == 512 * 2**20
    assert derived_config == before
    assert edits_weights(tmp_path, plan("edits-inpaint"), tmp_path) == tmp_path


def test_a_server_takes_larger_edits(tmp_path: Path, tiny_folder: Path) -> None:
    """The derived configuration loads, and its workflow of edits is the built-in one but for the bounds."""
    large = plan("edits-tryon-512")
    weights = edits_weights(tiny_folder, large, tmp_path)
    config = edits_config(config_file(tmp_path), "lego-tiny", weights, large, tmp_path)
    settings, workflows = configured(with_backbones(config, "lego-tiny", 1, tmp_path / "one"))
    assert set(workflows) == {"lego-tiny", "lego-tiny-edit"}
    edit = workflows["lego-tiny-edit"].inputs
    assert [(edit[side].min, edit[side].max) for side in ("width", "height")] == [(96, 512)] * 2
    model = settings.models["lego-tiny"]
    assert Path(model.path) == weights
    assert model.nodes.backbone.template_bytes == 1536 * 2**20
    assert model.nodes.backbone.replicas.max == 1


def test_stretched_weights_make_larger_images(tmp_path: Path, tiny_folder: Path) -> None:
    """The transformer takes 1,024 tokens, stands next to what it did before, and its own folder is as it was."""
    from diffusers import SD3Transformer2DModel
    from safetensors.torch import load_file

    before = (tiny_folder / "transformer" / "config.json").read_text()
    folder = edits_weights(tiny_folder, plan("edits-tryon-512"), tmp_path) / "transformer"
    config = json.loads((folder / "config.json").read_text())
    assert config == json.loads(before) | {"pos_embed_max_size": 32}
    weights = "diffusion_pytorch_model.safetensors"
    old, new = (load_file(each / weights) for each in (tiny_folder / "transformer", folder))
    table = new.pop("pos_embed.pos_embed")
    small = old.pop("pos_embed.pos_embed")
    assert table.shape == (1, 1024, small.shape[-1])
    assert table.view(32, 32, -1)[::31, ::31].equal(small.view(16, 16, -1)[::15, ::15])
    assert all(new[name].equal(old[name]) for name in old)
    model = SD3Transformer2DModel.from_pretrained(folder, torch_dtype=torch.float32)
    wide, pooled = config["joint_attention_dim"], config["pooled_projection_dim"]
    with torch.inference_mode():
        made = model(
            torch.zeros(1, config["in_channels"], 64, 64),
            torch.zeros(1, 8, wide),
            torch.zeros(1, pooled),
            torch.tensor([500.0]),
            return_dict=False,
        )[0]
    assert made.shape[-2:] == (64, 64)
    assert (tiny_folder / "transformer" / "config.json").read_text() == before


@pytest.mark.parametrize("name", EDITS)
def test_room_is_for_all_templates(name: str) -> None:
    """Every entry of every template: keys and values of six layers, 4 heads of 32 numbers and a scale, at 20 sigmas.

    With captions there is one for either branch of guidance; 32 rows of text are beside the image's.
    """
    chosen = plan(name)
    rows, branches = (chosen.side // 16) ** 2 + 32, 2 if chosen.captioned else 1
    assert chosen.templates * 20 * branches * rows * 6 * 2 * 4 * (32 + 2) <= chosen.template_bytes
