import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusion3InpaintPipeline
from PIL import Image

from loadgen.baselines.edits import blank_edit, edit_inputs, inpaint_pipeline
from loadgen.baselines.sd3_loading import load_pipeline, make_image
from loadgen.edits.masks import draw_mask, mask_file
from loadgen.edits.templates import template_file

SIZE: dict[str, Any] = {"width": 96, "height": 96, "steps": 3, "guidance": 4.0, "seed": 3, "max_sequence_length": 0}


@pytest.fixture(scope="module")
def pipeline(tiny_folder: Path) -> Any:
    """The baseline's inpainting pipeline over random weights."""
    return inpaint_pipeline(load_pipeline(tiny_folder))


def edited(pipeline: Any, ratio: float, prompt: str = "a red circle") -> tuple[np.ndarray, np.ndarray]:
    """An image and the mask it was edited in."""
    mask = draw_mask(ratio, 96, 96, np.random.default_rng(1))
    made = make_image(pipeline, prompt, **SIZE, **edit_inputs(template_file(96, 96, 0), mask_file(mask)))
    return np.asarray(made, dtype=np.int16), mask


def test_it_is_diffusers_inpainting_blending_in_every_step(pipeline: Any, tiny_folder: Path) -> None:
    """The image is the one a script gets from the same classes."""
    assert isinstance(pipeline, StableDiffusion3InpaintPipeline)
    made, mask = edited(pipeline, 0.3)
    own = load_pipeline(tiny_folder)
    own.transformer.register_to_config(in_channels=16)
    script = StableDiffusion3InpaintPipeline(**own.components)
    script.set_progress_bar_config(disable=True)
    script._encode_vae_image = lambda image, generator: (
        (script.vae.encode(image).latent_dist.mode() - script.vae.config.shift_factor)
        * script.vae.config.scaling_factor
    )
    template = Image.open(io.BytesIO(template_file(96, 96, 0)))
    expected = script(
        "a red circle", negative_prompt="", image=template, mask_image=Image.fromarray(mask.astype(np.uint8) * 255),
        strength=1.0, width=96, height=96, num_inference_steps=3, guidance_scale=4.0, max_sequence_length=0,
        generator=torch.Generator().manual_seed(3),
    ).images[0]  # fmt: skip
    assert np.abs(made - np.asarray(expected, dtype=np.int16)).max() <= 1


def test_prompts_and_masks_matter(pipeline: Any) -> None:
    """Within the mask the prompt decides more than outside."""
    (one, mask), (other, _) = edited(pipeline, 0.1), edited(pipeline, 0.1, "a blue square")
    moved = np.abs(one - other)
    assert moved[mask].mean() > 2 * moved[~mask].mean()


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_masks_of_nothing_and_of_everything_are_answered(pipeline: Any, ratio: float) -> None:
    """With an image of the size asked for; of nothing, one that no prompt changes."""
    one, other = edited(pipeline, ratio)[0], edited(pipeline, ratio, "a blue square")[0]
    assert one.shape == (96, 96, 3)
    assert np.array_equal(one, other) is (ratio == 0.0)


def test_it_warms_up_without_a_template(pipeline: Any) -> None:
    """On a grey image, all of which is edited."""
    assert make_image(pipeline, "warm up", **SIZE, **blank_edit(96, 96)).size == (96, 96)
