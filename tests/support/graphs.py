"""ComfyUI workflows in API format, as its menu exports them."""

from typing import Any

Graph = dict[str, dict[str, Any]]


def node(class_type: str, **inputs: object) -> dict[str, Any]:
    """Return a node; a link is a list of a node's id and a slot."""
    return {"class_type": class_type, "inputs": inputs}


def text_to_image(**sampling: object) -> Graph:
    """Return ComfyUI's default workflow: KSampler is node 3, SaveImage node 9; ``sampling`` changes inputs of 3."""
    values: dict[str, object] = {
        "seed": 7,
        "steps": 20,
        "cfg": 4.5,
        "sampler_name": "euler",
        "scheduler": "normal",
        "denoise": 1.0,
        "model": ["4", 0],
        "positive": ["6", 0],
        "negative": ["7", 0],
        "latent_image": ["5", 0],
    }
    return {
        "3": node("KSampler", **(values | sampling)),
        "4": node("CheckpointLoaderSimple", ckpt_name="lego-tiny.safetensors"),
        "5": node("EmptyLatentImage", width=128, height=96, batch_size=2),
        "6": node("CLIPTextEncode", text="a red circle", clip=["4", 1]),
        "7": node("CLIPTextEncode", text="blurry", clip=["4", 1]),
        "8": node("VAEDecode", samples=["3", 0], vae=["4", 2]),
        "9": node("SaveImage", filename_prefix="shop/ComfyUI", images=["8", 0]),
    }


def image_to_image(**sampling: object) -> Graph:
    """Return a workflow that starts from the upload `photo.png`."""
    graph = text_to_image(**({"denoise": 0.6} | sampling))
    graph["10"] = node("LoadImage", image="photo.png")
    graph["5"] = node("VAEEncode", pixels=["10", 0], vae=["4", 2])
    return graph


def masked_edit(**sampling: object) -> Graph:
    """Return a workflow that redraws the transparent part of the upload `photo.png`."""
    graph = image_to_image(**sampling)
    graph["11"] = node("SetLatentNoiseMask", samples=["5", 0], mask=["10", 1])
    graph["3"]["inputs"]["latent_image"] = ["11", 0]
    return graph


def guided_by_input() -> Graph:
    """Return a workflow of a model that has guidance as an input, out of single parts."""
    return {
        "1": node("UNETLoader", unet_name="big-dev.safetensors", weight_dtype="default"),
        "2": node("DualCLIPLoader", clip_name1="t5xxl.safetensors", clip_name2="clip_l.safetensors", type="any"),
        "3": node("VAELoader", vae_name="ae.safetensors"),
        "4": node("CLIPTextEncode", text="a castle", clip=["2", 0]),
        "5": node("FluxGuidance", conditioning=["4", 0], guidance=3.5),
        "6": node("ModelSamplingFlux", model=["1", 0], max_shift=1.15, base_shift=0.5, width=1024, height=768),
        "7": node("BasicGuider", model=["6", 0], conditioning=["5", 0]),
        "8": node("BasicScheduler", model=["6", 0], scheduler="simple", steps=28, denoise=1.0),
        "9": node("KSamplerSelect", sampler_name="euler"),
        "10": node("RandomNoise", noise_seed=2**63 + 5),
        "11": node("EmptySD3LatentImage", width=1024, height=768, batch_size=1),
        "12": node(
            "SamplerCustomAdvanced",
            noise=["10", 0],
            guider=["7", 0],
            sampler=["9", 0],
            sigmas=["8", 0],
            latent_image=["11", 0],
        ),
        "13": node("VAEDecode", samples=["12", 0], vae=["3", 0]),
        "14": node("PreviewImage", images=["13", 0]),
    }
