"""What ComfyUI's workflows ask for."""

import pytest

from lego_serve.compat.comfyui.faults import PromptRefused
from lego_serve.compat.comfyui.translate import translate
from lego_serve.compat.task import ControlNet, InputImage, Lora, MaskUse, SavedAs
from tests.support.graphs import Graph, guided_by_input, image_to_image, masked_edit, node, text_to_image

PHOTO = InputImage("name", "photo.png")


def complaint(graph: Graph) -> str:
    with pytest.raises(PromptRefused) as caught:
        translate(graph)
    assert caught.value.node_errors
    return "\n".join(caught.value.lines)


def test_the_default_workflow_is_text_to_image() -> None:
    """Every value of its nodes is in the task, and the file that SaveImage names."""
    task = translate(text_to_image(), {"checkpoints": ["lego-tiny", "other"]})
    assert (task.prompt, task.negative_prompt, task.checkpoint) == ("a red circle", "blurry", "lego-tiny")
    assert (task.width, task.height, task.n, task.steps, task.guidance) == (128, 96, 2, 20, 4.5)
    assert (task.sampler, task.scheduler, task.seed, task.strength, task.image) == ("euler", "normal", 7, None, None)
    assert (task.outputs, task.sampling_node) == ((SavedAs("9", "shop/ComfyUI"),), "3")
    assert task.replaced == ()


def test_seeds_are_taken_modulo_ours() -> None:
    """ComfyUI's go to 2^64, ours to 2^32."""
    assert translate(text_to_image(seed=2**64 - 1)).seed == 2**32 - 1
    assert translate(text_to_image(seed=2**32 + 3)).seed == 3


def test_an_image_to_start_from_is_image_to_image() -> None:
    """Without a size on the way the image keeps its own; ImageScale gives it one, the last of them counts."""
    task = translate(image_to_image())
    assert (task.image, task.strength, task.width, task.height, task.n, task.mask) == (PHOTO, 0.6, None, None, 1, None)
    graph = image_to_image()
    scaled = {"upscale_method": "bilinear", "crop": "disabled"}
    graph["12"] = node("ImageScale", image=["10", 0], width=64, height=64, **scaled)
    graph["13"] = node("ImageScale", image=["12", 0], width=160, height=96, **scaled)
    graph["14"] = node("RepeatLatentBatch", samples=["5", 0], amount=3)
    graph["5"]["inputs"]["pixels"] = ["13", 0]
    graph["3"]["inputs"]["latent_image"] = ["14", 0]
    task = translate(graph)
    assert (task.image, task.width, task.height, task.n) == (PHOTO, 160, 96, 3)


def test_masks_follow_comfyuis_meaning() -> None:
    """An alpha channel changes where it is transparent, a colour where it is high; inpainting may grow the mask."""
    assert translate(masked_edit()).mask == MaskUse(PHOTO, "alpha", edits_high=False)
    graph = image_to_image()
    graph["11"] = node("LoadImageMask", image="mask.png", channel="red")
    graph["5"] = node("VAEEncodeForInpaint", pixels=["10", 0], vae=["4", 2], mask=["11", 0], grow_mask_by=8)
    task = translate(graph)
    assert task.mask == MaskUse(InputImage("name", "mask.png"), "red", edits_high=True, dilation=8)
    assert task.mask is not None
    assert (task.mask.edits(255), task.mask.edits(0)) == (True, False)


def test_adapters_are_those_on_the_way_to_the_model() -> None:
    """The loader's nearest comes first, the same twice counts once at the sum, and another scale for text is said."""
    graph = text_to_image(model=["22", 0])
    lora = {"lora_name": "stripes.safetensors", "strength_model": 0.5}
    graph["20"] = node("LoraLoader", model=["4", 0], clip=["4", 1], strength_clip=1.0, **lora)
    graph["21"] = node("LoraLoaderModelOnly", model=["20", 0], lora_name="frame", strength_model=-1.0)
    graph["22"] = node("LoraLoaderModelOnly", model=["21", 0], **lora)
    task = translate(graph)
    assert task.loras == (Lora("stripes.safetensors", 1.0), Lora("frame", -1.0))
    assert task.replaced == (("strength_clip 1.0 of node 20", "strength_model 0.5"),)


def test_controlnets_are_those_on_the_way_to_the_prompts() -> None:
    """Their order is that from the prompts to the sampler; each has its image, weight and range."""
    graph = text_to_image(positive=["32", 0], negative=["32", 1])
    graph["30"] = node("ControlNetLoader", control_net_name="outline")
    graph["31"] = node("LoadImage", image="edges.png")
    apply = {"control_net": ["30", 0], "image": ["31", 0]}
    graph["33"] = node("ControlNetApply", conditioning=["6", 0], strength=0.5, **apply)
    graph["32"] = node(
        "ControlNetApplyAdvanced",
        positive=["33", 0],
        negative=["7", 0],
        strength=0.8,
        start_percent=0.1,
        end_percent=0.9,
        **apply,
    )
    task = translate(graph)
    edges = InputImage("name", "edges.png")
    assert task.controlnets == (ControlNet("outline", edges, 0.5), ControlNet("outline", edges, 0.8, 0.1, 0.9))
    assert (task.prompt, task.negative_prompt) == ("a red circle", "blurry")
    assert task.images == (edges,)
    graph["3"]["inputs"]["positive"] = ["6", 0]
    assert "on the negative prompt alone" in complaint(graph)


def test_guidance_as_an_input_takes_no_negative_prompt() -> None:
    """FluxGuidance gives it; a shift of the schedule is the model's own, which is said."""
    task = translate(guided_by_input())
    assert (task.guidance, task.is_guided, task.negative_prompt) == (3.5, False, None)
    assert (task.seed, task.steps, task.width, task.height, task.checkpoint) == (
        5,
        28,
        1024,
        768,
        "big-dev.safetensors",
    )
    assert task.outputs == (SavedAs("14", "ComfyUI_temp", "temp"),)
    assert task.replaced == (("max_shift 1.15, base_shift 0.5 of node 6", "the model's own schedule"),)
    graph = guided_by_input()
    graph["7"]["inputs"]["conditioning"] = ["4", 0]
    assert translate(graph).guidance is None


def test_a_sampler_that_is_not_here_has_one_that_stands_in_for_it() -> None:
    """It is said, as are schedules; words that nobody knows are refused with the nearest known."""
    task = translate(text_to_image(sampler_name="euler_ancestral", scheduler="karras"))
    assert task.sampler == "euler"
    assert task.replaced == (
        ("sampler euler_ancestral", "euler"),
        ("scheduler karras", "the model's own schedule"),
    )
    assert "did you mean dpmpp_2m?" in complaint(text_to_image(sampler_name="dpmpp_2n"))


def test_several_outputs_of_one_image_are_one_task() -> None:
    """Each gets the same files; two samplers are refused, with both ids."""
    graph = text_to_image()
    graph["12"] = node("PreviewImage", images=["8", 0])
    assert [output.node for output in translate(graph).outputs] == ["9", "12"]
    graph["13"] = dict(graph["3"])
    graph["14"] = node("VAEDecode", samples=["13", 0], vae=["4", 2])
    graph["12"] = node("PreviewImage", images=["14", 0])
    assert "two samplers, nodes 13 and 3" in complaint(graph)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"9": node("SaveImage", filename_prefix="x", images=["10", 0])}, "saves the output of LoadImage"),
        ({"8": node("VAEDecode", samples=["5", 0], vae=["4", 2])}, "decodes the output of EmptyLatentImage"),
        ({"9": node("SaveImage", filename_prefix="../x", images=["8", 0])}, "without `..`"),
        ({"9": node("SaveImage", filename_prefix="", images=["8", 0])}, "filename_prefix ''"),
        ({"5": node("EmptyLatentImage", width=128, height=96, batch_size=99)}, "bigger than max of 10"),
        ({"5": node("SetLatentNoiseMask", samples=["15", 0], mask=["10", 1])}, "a mask needs an image"),
        ({"5": node("RepeatLatentBatch", samples=["16", 0], amount=6)}, "12 images are asked for; at most 10"),
        ({"5": node("VAEEncode", pixels=["18", 0], vae=["4", 2])}, "its image is the output of VAEDecode"),
        ({"5": node("RepeatLatentBatch", samples=["17", 0], amount=1)}, "one prompt samples once"),
    ],
)
def test_what_cannot_be_done_names_its_node(changes: Graph, said: str) -> None:
    """The fault is in `node_errors`, in a sentence that says what is wrong."""
    graph = text_to_image() | {"10": node("LoadImage", image="photo.png")}
    graph["15"] = dict(graph["5"])
    graph["16"] = dict(graph["5"])
    graph["17"] = node("KSampler", **(text_to_image()["3"]["inputs"] | {"latent_image": ["15", 0]}))
    graph["18"] = node("VAEDecode", samples=["17", 0], vae=["4", 2])
    assert said in complaint(graph | changes)


def test_denoise_has_a_meaning_with_an_image_only() -> None:
    """Below 1 it needs one, and at 0 nothing would change."""
    assert "there is no image to start from" in complaint(text_to_image(denoise=0.5))
    assert "denoise is 0" in complaint(image_to_image(denoise=0))


def test_cropping_is_refused() -> None:
    """Images are stretched here."""
    graph = image_to_image()
    graph["12"] = node("ImageScale", image=["10", 0], width=64, height=64, upscale_method="area", crop="center")
    graph["5"]["inputs"]["pixels"] = ["12", 0]
    assert "set crop to disabled" in complaint(graph)
    graph["12"]["inputs"] |= {"crop": "disabled", "height": 0}
    assert "needs a width and a height" in complaint(graph)
