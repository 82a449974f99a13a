"""The workflows that sd-backend-client builds, and what comfy_api_simplified makes of our answers."""

import json
from typing import Any

import pytest
from comfy_api_simplified import ComfyWorkflowWrapper
from sd_backend_client.api.comfyui.comfyui_types import ImageFileReference
from sd_backend_client.api.comfyui.diffusion_workflow_builder import DiffusionWorkflowBuilder
from sd_backend_client.api.shared_data.diffusion_params import DiffusionParams

from lego_serve.compat.comfyui.faults import PromptRefused
from lego_serve.compat.comfyui.translate import translate
from lego_serve.compat.task import InputImage, Lora
from tests.support.graphs import text_to_image

LISTS = {"checkpoints": ["lego-tiny"], "loras": ["stripes"], "images": ["photo.png", "shop/mask.png"]}
PHOTO = ImageFileReference(filename="photo.png", subfolder="", type="input")


def sent(builder: DiffusionWorkflowBuilder) -> Any:
    """The prompt as it goes over the wire."""
    return json.loads(json.dumps(builder.build_workflow().get_workflow_dict()))


def built(**params: object) -> DiffusionWorkflowBuilder:
    builder = DiffusionWorkflowBuilder()
    builder.load_diffusion_parameters(DiffusionParams(**params), available_loras=["stripes"])
    return builder


def test_its_defaults_are_text_to_image_with_our_own_model() -> None:
    """It names no model, an ancestral sampler, and 512 x 512."""
    task = translate(sent(built(prompt="a cat", seed=5)), LISTS)
    assert (task.prompt, task.checkpoint, task.width, task.height, task.seed) == ("a cat", None, 512, 512, 5)
    assert (task.steps, task.guidance, task.sampler) == (30, 7.0, "euler")
    assert task.replaced == (("sampler euler_ancestral", "euler"),)


def test_its_prompts_adapters_are_nodes() -> None:
    """Tags in the negative prompt have the opposite sign, and both add up."""
    task = translate(sent(built(prompt="a <lora:stripes:0.5>", negative_prompt="b <lora:stripes:0.25>")), LISTS)
    assert task.loras == (Lora("stripes", 0.25),)


def test_its_edits_scale_and_repeat_the_image() -> None:
    """The mask is the alpha channel of an upload of its own."""
    builder = built(prompt="a cat", sd_model_name="lego-tiny", width=128, height=96, batch_size=2)
    builder.set_source_image_from_reference(PHOTO)
    builder.set_mask_from_reference(ImageFileReference(filename="mask.png", subfolder="shop", type="input"))
    builder.denoising_strength = 0.5
    task = translate(sent(builder), LISTS)
    assert (task.image, task.width, task.height, task.n) == (InputImage("name", "photo.png"), 128, 96, 2)
    assert task.mask is not None
    assert (task.mask.image, task.mask.channel, task.mask.edits_high) == (
        InputImage("name", "shop/mask.png"),
        "alpha",
        False,
    )
    assert task.strength == 0.5


def test_what_it_can_build_besides_is_refused_by_class() -> None:
    """Tiles of the VAE, models made for inpainting, layers skipped."""
    builder = built(prompt="x")
    builder.vae_tiling_enabled = True
    with pytest.raises(PromptRefused, match=r"VAEDecodeTiled.*did you mean VAEDecode"):
        translate(sent(builder), LISTS)
    builder = built(prompt="x")
    builder.clip_skip = 2
    with pytest.raises(PromptRefused, match="CLIPSetLastLayer"):
        translate(sent(builder), LISTS)


def test_a_workflow_with_titles_is_read() -> None:
    """comfy_api_simplified finds nodes by their titles, and sends them with the prompt."""
    graph = text_to_image()
    for node in graph.values():
        node["_meta"] = {"title": node["class_type"]}
    workflow = ComfyWorkflowWrapper(graph)
    workflow.set_node_param("KSampler", "steps", 9)
    task = translate(json.loads(json.dumps(workflow)))
    assert task.steps == 9
    assert [saved.node for saved in task.outputs] == [workflow.get_node_id("SaveImage")]
