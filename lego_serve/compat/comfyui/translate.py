"""Translates a checked ComfyUI graph to what it asks for, walking from the nodes that save back to the loaders."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from lego_serve.compat.comfyui.faults import Fault, refused
from lego_serve.compat.comfyui.graph import Graph, GraphNode, Lists, read_graph
from lego_serve.compat.comfyui.paths import is_plain_path
from lego_serve.compat.comfyui.values import Value
from lego_serve.compat.comfyui.walk import Prompts, Start, read_model, read_prompts, read_start
from lego_serve.compat.comfyui.wrong import Wrong
from lego_serve.compat.samplers import UNREMARKABLE, exact_sampler, sampler_of
from lego_serve.compat.task import SEEDS, ImageTask, SavedAs

MAX_PREFIX = 100


def translate(prompt: object, lists: Lists | None = None) -> ImageTask:
    """Return what a prompt asks for.  Raises PromptRefused, whose body is the answer to send.

    ``lists`` has the names that the server offers, by the names of `nodes`; without it any name passes.
    """
    graph = read_graph(prompt, lists)
    try:
        return _task(graph)
    except Wrong as wrong:
        fault = Fault(wrong.node.id, "custom_validation_failed", wrong.message, wrong.input)
        raise refused([fault], {wrong.node.id: wrong.node.type.name}, graph.outputs) from None


def _task(graph: Graph) -> ImageTask:
    sampler = _sampler(graph)
    task = _of_ksampler(graph, sampler) if sampler.type.name == "KSampler" else _of_custom(graph, sampler)
    return replace(task, outputs=_outputs(graph), sampling_node=sampler.id)


def _sampler(graph: Graph) -> GraphNode:
    """Return the node that samples what all outputs save.  Raises Wrong where they differ."""
    found: dict[str, GraphNode] = {}
    for output in graph.outputs:
        decode = graph.source(graph.nodes[output], "images")
        if decode.type.name != "VAEDecode":
            reads = f"saves the output of {decode.type.name}; it must be of VAEDecode"
            raise Wrong(graph.nodes[output], reads, "images")
        sampler = graph.source(decode, "samples")
        if sampler.type.name not in ("KSampler", "SamplerCustomAdvanced"):
            reads = f"decodes the output of {sampler.type.name}; it must be of KSampler or SamplerCustomAdvanced"
            raise Wrong(decode, reads, "samples")
        found[sampler.id] = sampler
        if len(found) > 1:
            first, second = sorted(found)
            reads = f"the outputs come from two samplers, nodes {first} and {second}; send one prompt for each"
            raise Wrong(graph.nodes[output], reads, "images")
    return next(iter(found.values()))


def _of_ksampler(graph: Graph, node: GraphNode) -> ImageTask:
    prompts = read_prompts(graph, node, "positive", "negative")
    guidance = float(node.values["cfg"])
    if prompts.guidance is not None:
        if guidance > 1.0:
            reads = f"cfg {guidance} beside a FluxGuidance of {prompts.guidance}; a model has one of them, set cfg to 1"
            raise Wrong(node, reads, "cfg")
        guidance = prompts.guidance
    return _made(graph, node, prompts, guidance, node.values, node.values["seed"])


def _of_custom(graph: Graph, node: GraphNode) -> ImageTask:
    noise, guider = graph.source(node, "noise"), graph.source(node, "guider")
    sigmas, selected = graph.source(node, "sigmas"), graph.source(node, "sampler")
    prompts = read_prompts(graph, guider, "conditioning", None)
    values = {**sigmas.values, "sampler_name": selected.values["sampler_name"]}
    return _made(graph, node, prompts, prompts.guidance, values, noise.values["noise_seed"], guider)


def _made(
    graph: Graph,
    node: GraphNode,
    prompts: Prompts,
    guidance: float | None,
    values: Mapping[str, Value],
    seed: Value,
    holder: GraphNode | None = None,
) -> ImageTask:
    """Return the task of a sampling node; ``holder`` has the link to the model where that is another node."""
    model = read_model(graph, holder or node)
    start = read_start(graph, node)
    is_guided = prompts.guidance is None and (guidance or 0.0) > 1.0
    sampler, scheduler = str(values["sampler_name"]), str(values["scheduler"])
    return ImageTask(
        prompt=prompts.positive,
        negative_prompt=prompts.negative or None if is_guided else None,
        checkpoint=model.checkpoint or None,
        width=start.width,
        height=start.height,
        steps=int(values["steps"]),
        guidance=guidance,
        is_guided=is_guided,
        sampler=sampler_of(sampler),
        scheduler=scheduler,
        seed=int(seed) % SEEDS,
        n=start.n,
        strength=_strength(node, start, float(values["denoise"])),
        loras=model.loras,
        controlnets=prompts.controlnets,
        image=start.image,
        mask=start.mask,
        replaced=(*model.replaced, *_stand_ins(sampler, scheduler)),
    )


def _stand_ins(sampler: str, scheduler: str) -> list[tuple[str, str]]:
    """Return what takes the place of a sampler that is not here, and of a schedule."""
    notes = [] if exact_sampler(sampler) else [(f"sampler {sampler}", sampler_of(sampler) or sampler)]
    return notes if scheduler in UNREMARKABLE else [*notes, (f"scheduler {scheduler}", "the model's own schedule")]


def _strength(node: GraphNode, start: Start, denoise: float) -> float | None:
    if denoise == 0.0:
        raise Wrong(node, "denoise is 0, which changes nothing; it must be above 0", "denoise")
    if start.image is None and denoise < 1.0:
        raise Wrong(node, f"denoise is {denoise}, but there is no image to start from; it must be 1", "denoise")
    return None if start.image is None else denoise


def _outputs(graph: Graph) -> tuple[SavedAs, ...]:
    found: list[SavedAs] = []
    for output in graph.outputs:
        node = graph.nodes[output]
        is_kept = node.type.name == "SaveImage"
        prefix = str(node.values["filename_prefix"]) if is_kept else "ComfyUI_temp"
        if len(prefix) > MAX_PREFIX or not is_plain_path(prefix):
            reads = f"is no relative path of at most {MAX_PREFIX} characters without `..` and control characters"
            raise Wrong(node, f"filename_prefix {prefix[:40]!a} {reads}", "filename_prefix")
        folder: Literal["output", "temp"] = "output" if is_kept else "temp"
        found.append(SavedAs(output, prefix, folder))
    return tuple(found)
