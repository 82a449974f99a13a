"""Makes the fields of our own image requests of what a foreign request asks for."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from lego_serve.compat.names import Names, resolve
from lego_serve.compat.task import ImageTask, InputImage, MaskUse, Refused

# Our fields by each protocol's words, for errors that say what the caller knows.
A1111_WORDS: Mapping[str, str] = {
    "model": "sd_model_checkpoint",
    "size": "width",
    "n": "batch_size",
    "num_inference_steps": "steps",
    "guidance_scale": "cfg_scale",
    "sampler": "sampler_name",
    "strength": "denoising_strength",
    "mask_feather": "mask_blur",
    "image": "init_images",
    "lora": "prompt",
    "controlnet": "alwayson_scripts.ControlNet",
    "tier": "override_settings.tier",
}
COMFYUI_WORDS: Mapping[str, str] = {
    "prompt": "text",
    "negative_prompt": "text",
    "model": "ckpt_name",
    "size": "width",
    "n": "batch_size",
    "num_inference_steps": "steps",
    "guidance_scale": "cfg",
    "sampler": "sampler_name",
    "strength": "denoise",
    "mask_dilation": "grow_mask_by",
    "lora": "lora_name",
    "controlnet": "control_net_name",
}


@dataclass(frozen=True, slots=True)
class OurRequest:
    """The fields of GenerationRequest or EditRequest, and the files that an edit has beside them.

    A mask must still be turned into one whose transparent part changes, as `MaskUse` says.  What is ``dispensable``
    is to be left out where the workflow has no such input, since the caller asks for what happens without it.
    """

    route: Literal["generations", "edits"]
    fields: Mapping[str, object]
    image: InputImage | None = None
    mask: MaskUse | None = None
    dispensable: frozenset[str] = frozenset()


def our_request(task: ImageTask, names: Names, images: Mapping[InputImage, str]) -> OurRequest:
    """Return the request for a task; ``images`` has the files of its images as base64.

    Raises Refused for a name that is not known, and for what no request of ours can ask for.
    """
    fields = _shared(task, names)
    spare = _dispensable(task)
    if task.image is None:
        nets = [
            {
                "name": resolve("ControlNet", net.name, names.controlnets, "controlnet"),
                "image": _image(net.image, images),
                "weight": net.weight,
                "start": net.start,
                "end": net.end,
            }
            for net in task.controlnets
        ]
        addons: dict[str, object] = {"lora": _loras(task, names), "controlnet": nets}
        fields |= {name: uses for name, uses in addons.items() if uses}
        return OurRequest("generations", fields, dispensable=spare)
    if task.controlnets:
        raise Refused("an edit of an image takes no ControlNet; leave the image or the ControlNet out", "controlnet")
    if task.strength is not None:
        fields["strength"] = task.strength
    if lora := _loras(task, names):
        fields["lora"] = json.dumps(lora)  # a form has text alone
    if task.mask is not None:
        fields |= {"mask_dilation": task.mask.dilation, "mask_feather": task.mask.feather}
    return OurRequest("edits", fields, task.image, task.mask, spare)


def _shared(task: ImageTask, names: Names) -> dict[str, object]:
    if (task.width is None) is not (task.height is None):
        raise Refused("a width needs a height, and the other way round", "size")
    model = None if task.checkpoint is None else resolve("model", task.checkpoint, names.models, "model")
    given = {
        "prompt": task.prompt,
        "negative_prompt": task.negative_prompt,
        "model": model,
        "size": None if task.width is None else f"{task.width}x{task.height}",
        "n": task.n,
        "num_inference_steps": task.steps,
        "guidance_scale": task.guidance,
        "sampler": task.sampler,
        "tier": task.tier,
        "seed": task.seed,
        "output_format": "png",
        "response_format": "b64_json",
    }
    return {name: value for name, value in given.items() if value is not None}


def _dispensable(task: ImageTask) -> frozenset[str]:
    """Return the fields that ask for nothing but the plainest: no guidance, Euler's method, one image."""
    plain = {
        "guidance_scale": task.guidance is not None and task.guidance <= 1.0,
        "sampler": task.sampler == "euler",
        "n": task.n == 1,
    }
    return frozenset(name for name, is_plain in plain.items() if is_plain)


def _loras(task: ImageTask, names: Names) -> list[dict[str, object]]:
    """Return the entries of `lora`.  Two names of the caller may mean one adapter of ours: the scales add up."""
    scales: dict[str, float] = {}
    for lora in task.loras:
        name = resolve("adapter", lora.name, names.loras, "lora")
        scales[name] = scales.get(name, 0.0) + lora.scale
    return [{"name": name, "scale": scale} for name, scale in scales.items()]


def _image(image: InputImage, images: Mapping[InputImage, str]) -> str:
    if image.source == "base64":
        return image.value
    if image not in images:
        raise Refused(f"there is no upload {image.value[:60]!a}", "image")
    return images[image]
