"""Follows a graph's links from a sampling node: to the model with its adapters, the prompts, and what it starts from.

A checked graph has no cycle, so every walk ends at a node without links.
"""

from dataclasses import dataclass
from typing import Literal

from lego_serve.compat.comfyui.graph import Graph, GraphNode
from lego_serve.compat.comfyui.wrong import Wrong
from lego_serve.compat.task import MAX_IMAGES, ControlNet, InputImage, Lora, MaskUse, summed

CONTROL = ("ControlNetApply", "ControlNetApplyAdvanced")
EMPTY = ("EmptyLatentImage", "EmptySD3LatentImage")


@dataclass(frozen=True, slots=True)
class Model:
    """The checkpoint that a node samples with, the adapters on it, and what is not done as asked."""

    checkpoint: str
    loras: tuple[Lora, ...]
    replaced: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Prompts:
    """The texts of a sampling node, its ControlNets, and the guidance that a FluxGuidance sets."""

    positive: str
    negative: str
    controlnets: tuple[ControlNet, ...]
    guidance: float | None


@dataclass(frozen=True, slots=True)
class Start:
    """What sampling starts from: nothing but a size, or an image, of which a mask may say what changes."""

    n: int
    width: int | None = None
    height: int | None = None
    image: InputImage | None = None
    mask: MaskUse | None = None


def read_model(graph: Graph, holder: GraphNode) -> Model:
    """Return the model that a node's input `model` leads to; the loader's adapter comes first."""
    loras: list[Lora] = []
    replaced: list[tuple[str, str]] = []
    node = graph.source(holder, "model")
    while "model" in node.links:
        if node.type.name.startswith("LoraLoader"):
            scale = float(node.values["strength_model"])
            loras.insert(0, Lora(str(node.values["lora_name"]), scale))
            for_text = float(node.values.get("strength_clip", scale))
            if for_text != scale:
                replaced.append((f"strength_clip {for_text} of node {node.id}", f"strength_model {scale}"))
        else:
            shifts = ", ".join(f"{name} {value}" for name, value in node.values.items() if "shift" in name)
            replaced.append((f"{shifts} of node {node.id}", "the model's own schedule"))
        node = graph.source(node, "model")
    name = node.values.get("ckpt_name", node.values.get("unet_name", ""))
    return Model(str(name), summed(tuple(loras)), tuple(replaced))


def read_prompts(graph: Graph, holder: GraphNode, positive: str, negative: str | None) -> Prompts:
    """Return what a node's conditioning inputs lead to; a node without a negative one has an empty text there."""
    text, nets, guidance = _conditioning(graph, holder, positive)
    if negative is None:
        return Prompts(text, "", tuple(nets.values()), guidance)
    unwanted, others, _ = _conditioning(graph, holder, negative)
    lonely = others.keys() - nets.keys()
    if lonely:
        node = graph.nodes[min(lonely)]
        raise Wrong(node, "the ControlNet is on the negative prompt alone; it works on both prompts or on none")
    return Prompts(text, unwanted, tuple(nets.values()), guidance)


def _conditioning(graph: Graph, holder: GraphNode, name: str) -> tuple[str, dict[str, ControlNet], float | None]:
    """Return the text behind an input, the ControlNets on the way by node, the text's nearest first, and guidance."""
    nets: list[tuple[str, ControlNet]] = []
    guidance: float | None = None
    slot, node = holder.links[name].slot, graph.source(holder, name)
    while node.type.name != "CLIPTextEncode":
        if node.type.name in CONTROL:
            nets.append((node.id, _controlnet(graph, node)))
            via = ("positive", "negative")[slot] if node.type.name == "ControlNetApplyAdvanced" else "conditioning"
        else:  # FluxGuidance; the one nearest to the sampler counts
            guidance = float(node.values["guidance"]) if guidance is None else guidance
            via = "conditioning"
        slot, node = node.links[via].slot, graph.source(node, via)
    return str(node.values["text"]), dict(reversed(nets)), guidance


def _controlnet(graph: Graph, node: GraphNode) -> ControlNet:
    loader = graph.source(node, "control_net")
    start, end = float(node.values.get("start_percent", 0.0)), float(node.values.get("end_percent", 1.0))
    if start >= end:
        raise Wrong(node, f"start_percent {start} must be below end_percent {end}", "start_percent")
    image, _ = _input_image(graph, node, "image")
    weight = float(node.values["strength"])
    return ControlNet(str(loader.values["control_net_name"]), image, weight, start, end)


def read_start(graph: Graph, sampler: GraphNode) -> Start:
    """Return what a sampling node's latents are made of."""
    copies, mask = 1, None
    node = graph.source(sampler, "latent_image")
    while "samples" in node.links:
        if node.type.name == "RepeatLatentBatch":
            copies *= int(node.values["amount"])
        else:  # SetLatentNoiseMask; the one nearest to the sampler counts
            mask = mask or _mask(graph, node)
        node = graph.source(node, "samples")
    if "latent_image" in node.links:
        raise Wrong(sampler, f"starts from what node {node.id} sampled; one prompt samples once", "latent_image")
    copies *= int(node.values.get("batch_size", 1))
    if copies > MAX_IMAGES:
        raise Wrong(node, f"{copies} images are asked for; at most {MAX_IMAGES} may be", "batch_size")
    if node.type.name in EMPTY:
        if mask is not None:
            raise Wrong(sampler, "a mask needs an image: encode one with VAEEncode", "latent_image")
        return Start(copies, int(node.values["width"]), int(node.values["height"]))
    if node.type.name == "VAEEncodeForInpaint":
        mask = mask or _mask(graph, node, int(node.values["grow_mask_by"]))
    image, size = _input_image(graph, node, "pixels")
    width, height = size or (None, None)
    return Start(copies, width, height, image, mask)


def _mask(graph: Graph, node: GraphNode, dilation: int = 0) -> MaskUse:
    """Return the mask of a node; ComfyUI's masks are high where an alpha channel is transparent."""
    loader = graph.source(node, "mask")
    image = InputImage("name", str(loader.values["image"]))
    named = str(loader.values.get("channel", "alpha"))
    channel: Literal["alpha", "red", "green", "blue"] = "alpha"
    for known in ("red", "green", "blue"):
        channel = known if named == known else channel
    return MaskUse(image, channel, edits_high=channel != "alpha", dilation=dilation)


def _input_image(graph: Graph, node: GraphNode, name: str) -> tuple[InputImage, tuple[int, int] | None]:
    """Return the upload behind an input, and the size that it is brought to on the way, if any."""
    size: tuple[int, int] | None = None
    source = graph.source(node, name)
    while source.type.name == "ImageScale":
        width, height = int(source.values["width"]), int(source.values["height"])
        if source.values["crop"] != "disabled":
            raise Wrong(source, "images are stretched and not cropped; set crop to disabled", "crop")
        if not width or not height:
            raise Wrong(source, "needs a width and a height, both above 0", "width" if not width else "height")
        size = size or (width, height)
        source = graph.source(source, "image")
    if source.type.name != "LoadImage":
        raise Wrong(node, f"its image is the output of {source.type.name}; it must be of LoadImage", name)
    return InputImage("name", str(source.values["image"])), size
