"""From a ControlNet's folder to the ControlNet, checked against the model it is for.

The folder is diffusers' own: a ``config.json`` and safetensors, for SD3ControlNetModel or
FluxControlNetModel.  One that is for another backbone is refused with a line that names both.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open

from lego_serve.errors import CheckpointError
from lego_serve.models import loading
from lego_serve.models.controlnets.common import ControlNet
from lego_serve.models.controls import ControlForm, ControlSource
from lego_serve.models.spec import ModelSpec

OUT_COST = 1 / 12  # a residual's own projection, next to a block's products of a row
BASE_KEYS = ("joint_attention_dim", "pooled_projection_dim", "in_channels", "patch_size")


class LoadedControlNet(ControlNet, ControlSource, Protocol):
    """A ControlNet whose weights are here is also the source of its residuals here."""


def load_controlnet(spec: ModelSpec, base: ModelSpec) -> LoadedControlNet:
    """The ControlNet of a folder for a base model, whose folder tells what fits.  Raises CheckpointError."""
    loaders: Mapping[str, Any] = {"sd3": _load_sd3, "flux": _load_flux}
    if base.family not in loaders:
        raise CheckpointError(f"model {spec.name}: family {base.family!r} has no ControlNets")
    folder, base_folder = loading.model_folder(spec, ""), loading.model_folder(base, "transformer", "vae")
    net: LoadedControlNet = loaders[base.family](spec, folder, base, base_folder)
    return net


def _load_sd3(spec: ModelSpec, folder: Path, base: ModelSpec, base_folder: Path) -> Any:
    from diffusers import SD3ControlNetModel

    from lego_serve.models.controlnets.sd3 import Sd3ControlNet

    module = loading.load_module(spec, folder, "", SD3ControlNetModel)
    config = module.config
    ours = loading.read_json(base, base_folder / "transformer" / "config.json")
    keys = tuple(key for key in BASE_KEYS if config["joint_attention_dim"] is not None or key != "joint_attention_dim")
    _check_fits(spec, folder, config, base, ours, keys)
    if module.pos_embed is None:
        module.pos_embed = _backbone_embedding(module, base, base_folder, ours)
    blocks = int(config["num_layers"])
    extra = int(config["extra_conditioning_channels"])
    form = ControlForm(
        spec.name, _width(config), blocks, 0, int(config["in_channels"]) + extra, _share(blocks, ours["num_layers"])
    )
    # An inpainting ControlNet's latents come with a mask, and with the VAE's shift whatever else its config says.
    shift = _vae_shift(base, base_folder) if config["force_zeros_for_pooled_projection"] and not extra else 0.0
    return Sd3ControlNet(module, form, shift, release=True)


def _load_flux(spec: ModelSpec, folder: Path, base: ModelSpec, base_folder: Path) -> Any:
    from diffusers import FluxControlNetModel

    from lego_serve.models.controlnets.flux import FluxControlNet
    from lego_serve.models.families.flux import PATCH

    module = loading.load_module(spec, folder, "", FluxControlNetModel)
    config = module.config
    ours = loading.read_json(base, base_folder / "transformer" / "config.json")
    _check_fits(spec, folder, config, base, ours, BASE_KEYS[:3])
    doubles, singles = int(config["num_layers"]), int(config["num_single_layers"])
    reads_pixels = config["conditioning_embedding_channels"] is not None
    form = ControlForm(
        spec.name, _width(config), doubles, singles,
        3 if reads_pixels else int(config["in_channels"]) // PATCH**2,
        _share(doubles + singles, ours["num_layers"] + ours["num_single_layers"]),
        modes=int(config["num_mode"] or 0), reads_pixels=reads_pixels, repeats=reads_pixels,
    )  # fmt: skip
    return FluxControlNet(module, form, release=True)


def _check_fits(
    spec: ModelSpec,
    folder: Path,
    config: Mapping[str, Any],
    base: ModelSpec,
    ours: Mapping[str, Any],
    keys: tuple[str, ...],
) -> None:
    """Raise CheckpointError for a ControlNet of another width, text, latents or patches than its base."""
    found = {"width": _width(config)} | {key: config[key] for key in keys}
    needed = {"width": _width(ours)} | {key: ours.get(key, config[key]) for key in keys}
    for key, value in found.items():
        if value != needed[key]:
            raise CheckpointError(
                f"model {spec.name}: {folder} has {key} {value}, its base model {base.name} has {needed[key]}"
            )


def _width(config: Mapping[str, Any]) -> int:
    return int(config["num_attention_heads"] * config["attention_head_dim"])


def _share(blocks: int, of: int) -> float:
    """What a row costs relative to a row of the backbone, counted in products."""
    return blocks * (1 + OUT_COST) / int(of)


def _vae_shift(base: ModelSpec, folder: Path) -> float:
    """The VAE's shift, in scaled latents."""
    config = loading.read_json(base, folder / "vae" / "config.json")
    return float((config.get("shift_factor") or 0.0) * (config.get("scaling_factor") or 1.0))


def _backbone_embedding(module: Any, base: ModelSpec, folder: Path, config: Mapping[str, Any]) -> Any:
    """The backbone's own patch embedding, for a ControlNet that has none."""
    from diffusers.models.embeddings import PatchEmbed

    weight = module.pos_embed_input.proj.weight
    embed = PatchEmbed(
        height=config["sample_size"], width=config["sample_size"], patch_size=config["patch_size"],
        in_channels=config["in_channels"], embed_dim=_width(config), pos_embed_max_size=config["pos_embed_max_size"],
    )  # fmt: skip
    state: dict[str, torch.Tensor] = {}
    for file in sorted((folder / "transformer").glob("*.safetensors")):
        try:
            with safe_open(file, "pt") as opened:
                names = [name for name in opened.keys() if name.startswith("pos_embed.")]  # noqa: SIM118
                state |= {name.removeprefix("pos_embed."): opened.get_tensor(name) for name in names}
        except (SafetensorError, OSError):
            raise CheckpointError(f"model {base.name}: {file} is damaged or incomplete") from None
    for name, needed in embed.state_dict().items():
        if name not in state or state[name].shape != needed.shape:
            raise CheckpointError(f"model {base.name}: {folder / 'transformer'} lacks weight pos_embed.{name}")
    embed.load_state_dict(state)
    return embed.to(weight.device, weight.dtype).eval().requires_grad_(False)
