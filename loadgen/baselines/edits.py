"""diffusers' own inpainting of a template within a mask, computed in full, as its users run it today."""

import io
from typing import Any

from diffusers import StableDiffusion3InpaintPipeline
from PIL import Image

from loadgen.baselines.sd3_loading import encode_to_means

BLENDING_CHANNELS = 16  # the pipeline blends in every step for this number; it reads the configuration, not the weights


def inpaint_pipeline(pipeline: Any) -> Any:
    """Return the inpainting pipeline of a text-to-image pipeline's components; the latter is unusable afterwards."""
    pipeline.transformer.register_to_config(in_channels=BLENDING_CHANNELS)
    encode_to_means(pipeline.vae)
    pipeline_class: Any = StableDiffusion3InpaintPipeline
    inpaint = pipeline_class(**pipeline.components)
    inpaint.set_progress_bar_config(disable=True)
    return inpaint


def edit_inputs(image: bytes, mask: bytes) -> dict[str, Any]:
    """Return the pipeline's arguments for an edit's files; the mask is transparent where the image is to change."""
    alpha = Image.open(io.BytesIO(mask)).convert("RGBA").getchannel("A")
    return {
        "image": Image.open(io.BytesIO(image)).convert("RGB"),
        "mask_image": alpha.point([255] + 255 * [0]),
        "strength": 1.0,
    }


def blank_edit(width: int, height: int) -> dict[str, Any]:
    """Return the arguments for an edit of a whole grey image, to warm up with."""
    size = width, height
    return {"image": Image.new("RGB", size, "grey"), "mask_image": Image.new("L", size, 255), "strength": 1.0}
