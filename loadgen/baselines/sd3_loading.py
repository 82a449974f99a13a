"""Loads diffusers' own StableDiffusion3Pipeline as every baseline runs it, and makes one image with it.

It runs eagerly, with the VAE in channels_last and in the dtype that the server would choose: what a competent user
writes in an afternoon.
"""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusion3Pipeline
from PIL import Image


def load_pipeline(weights: Path) -> Any:
    """Load the pipeline from a folder in diffusers' format, silent and ready to run."""
    pipeline_class: Any = StableDiffusion3Pipeline  # diffusers' own annotations are partial
    pipeline = pipeline_class.from_pretrained(
        weights,
        torch_dtype=torch.bfloat16 if multiplies_bf16() else torch.float32,
        use_safetensors=True,
        local_files_only=True,
        **_absent_components(weights),
    )
    pipeline.vae.to(memory_format=torch.channels_last)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def dtype_name(pipeline: Any) -> str:
    """Return a pipeline's dtype in one word, such as ``float32``."""
    return str(pipeline.dtype).removeprefix("torch.")


def multiplies_bf16() -> bool:
    """Return whether this CPU multiplies bf16 in hardware; the server chooses its dtype by the same rule."""
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def make_image(
    pipeline: Any,
    prompt: str,
    *,
    width: int,
    height: int,
    steps: int,
    guidance: float,
    seed: int,
    max_sequence_length: int,
    **arguments: Any,
) -> Image.Image:
    """Make one image as a script does; ``arguments`` are those that only some pipelines take, such as ControlNets'."""
    output = pipeline(
        prompt,
        negative_prompt="",
        width=width,
        height=height,
        num_inference_steps=steps,
        guidance_scale=guidance,
        max_sequence_length=max_sequence_length,
        generator=torch.Generator().manual_seed(seed),
        **arguments,
    )
    image: Image.Image = output.images[0]
    return image


def encode_to_means(vae: Any) -> None:
    """Make a VAE encode images to their mean instead of a random sample.

    It is the one thing that baselines do unlike diffusers: so a request has one image, and both systems' images can be
    compared.  It costs nothing.
    """
    encode = vae.encode

    def encode_to_mean(*args: Any, **kwargs: Any) -> Any:
        encoded = encode(*args, **kwargs)
        mode = encoded.latent_dist.mode
        encoded.latent_dist.sample = lambda generator=None: mode()
        return encoded

    vae.encode = encode_to_mean


def _absent_components(weights: Path) -> dict[str, None]:
    """Return the components that a folder has none of, such as T5, in the form that diffusers takes."""
    index = json.loads((weights / "model_index.json").read_text())
    return {name: None for name, entry in index.items() if isinstance(entry, list) and entry[0] is None}
