"""Writes a trained family as a folder in diffusers' format, in bf16."""

import json
import random
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusion3Pipeline
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from lego_serve.models import previews
from lego_serve.models.vae import KlVae
from lego_serve.zoo.architecture import build_scheduler, build_text_encoder, build_transformer, build_vae
from lego_serve.zoo.world.scenes import render, sample_scene

WEIGHTS = Path(__file__).parent / "weights" / "lego-tiny"
MAX_BYTES = 22_000_000
PREVIEW_SCENES = 96


def pipeline(
    tokenizer: CLIPTokenizer,
    encoders: list[CLIPTextModelWithProjection],
    vae: AutoencoderKL,
    transformer: torch.nn.Module,
) -> StableDiffusion3Pipeline:
    """Return diffusers' own pipeline of these components, without T5."""
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=build_scheduler(),
        vae=vae,
        text_encoder=encoders[0],
        tokenizer=tokenizer,
        text_encoder_2=encoders[1],
        tokenizer_2=tokenizer,
        text_encoder_3=None,
        tokenizer_3=None,
    )


def trained(states: Path) -> StableDiffusion3Pipeline:
    """Return the family with the weights of a training folder; moving averages where there are any."""
    tokenizer = CLIPTokenizer.from_pretrained(states / "tokenizer")
    encoders = [build_text_encoder(len(tokenizer), tokenizer.eos_token_id, seed) for seed in (0, 1)]
    transformer, vae = build_transformer(), build_vae()
    average = torch.load(states / "backbone.pt", map_location="cpu", weights_only=True)["average"]
    transformer.load_state_dict(_with_prefix(average, "transformer."))
    for index, encoder in enumerate(encoders):
        encoder.load_state_dict(_with_prefix(average, f"encoders.{index}."))
    state = torch.load(states / "decoder.pt", map_location="cpu", weights_only=True)
    vae.load_state_dict(state["model"])
    vae.register_to_config(**json.loads((states / "latents.json").read_text()))
    return pipeline(tokenizer, encoders, vae, transformer)


def _with_prefix(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def export(
    family: StableDiffusion3Pipeline,
    folder: Path = WEIGHTS,
    dtype: torch.dtype = torch.bfloat16,
    max_bytes: int = MAX_BYTES,
) -> int:
    """Write the folder and return its size in bytes.  Raises ValueError above ``max_bytes``."""
    family.to(dtype).save_pretrained(folder, safe_serialization=True)
    write_preview_fit(folder)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    if size > max_bytes:
        raise ValueError(f"{folder} takes {size} bytes, at most {max_bytes} are allowed")
    return size


def write_preview_fit(folder: Path = WEIGHTS) -> None:
    """Fit the projection of latents to previews on the family's own world, and write it beside the VAE."""
    vae = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32)
    rng = random.Random(0)
    scenes = [sample_scene(rng, 1 + index % 2) for index in range(PREVIEW_SCENES)]
    images = ((render(scenes, 128, 128, rng) / 2 + 0.5).clamp(0, 1) * 255).round().byte()
    previews.write(previews.fit(KlVae(vae), images.permute(0, 2, 3, 1)), folder / "vae")
