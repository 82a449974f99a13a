"""diffusers' own StableDiffusion3Pipeline as every baseline runs it, and one image from it.

Eager, VAE in channels_last, the dtype the server would choose: what a competent user writes in an afternoon.
"""

import io
import json
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusion3Pipeline
from PIL import Image


def load_pipeline(weights: Path) -> Any:
    """The pipeline from a folder in diffusers' format, silent and ready to run."""
    pipeline_class: Any = StableDiffusion3Pipeline  # diffusers' own annotations are partial
    pipeline = pipeline_class.from_pretrained(
        weights,
        torch_dtype=torch.bfloat16 if multiplies_bf16() else torch.float32,
        use_safetensors=True,
        local_files_only=True,
        **_absent(weights),
    )
    pipeline.vae.to(memory_format=torch.channels_last)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def dtype_name(pipeline: Any) -> str:
    """Its dtype in one word, such as ``float32``."""
    return str(pipeline.dtype).removeprefix("torch.")


def multiplies_bf16() -> bool:
    """Whether this CPU multiplies bf16 in hardware, the rule by which the server chooses its dtype too."""
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
    **more: Any,
) -> Image.Image:
    """One image, exactly as a script would ask for it; ``more`` is what a pipeline with ControlNets takes besides."""
    made = pipeline(
        prompt,
        negative_prompt="",
        width=width,
        height=height,
        num_inference_steps=steps,
        guidance_scale=guidance,
        max_sequence_length=max_sequence_length,
        generator=torch.Generator().manual_seed(seed),
        **more,
    )
    image: Image.Image = made.images[0]
    return image


def encode_to_means(vae: Any) -> None:
    """Have a VAE encode images to their mean, not to a sample with noise of its own.

    The one thing that baselines do not do as diffusers does: so one request has one image, and both sides' can be
    compared.  It costs nothing.
    """
    encode = vae.encode

    def to_means(*arguments: Any, **more: Any) -> Any:
        found = encode(*arguments, **more)
        mean = found.latent_dist.mode
        found.latent_dist.sample = lambda generator=None: mean()
        return found

    vae.encode = to_means


def png(image: Image.Image) -> bytes:
    """The image as a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _absent(weights: Path) -> dict[str, None]:
    """The components a folder says it does without, such as T5; diffusers wants to be told so."""
    index = json.loads((weights / "model_index.json").read_text())
    return {name: None for name, entry in index.items() if isinstance(entry, list) and entry[0] is None}
