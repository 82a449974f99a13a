"""Makes one of our workflow files of what a ComfyUI workflow asks for."""

import re

from lego_serve.compat.names import stem
from lego_serve.compat.task import MAX_GUIDANCE, MAX_IMAGES, MAX_STEPS, ImageTask

Json = dict[str, object]
SIDES = (64, 2048)
DEFAULT_SIDE = 512
NAME = re.compile(r"[^a-zA-Z0-9._-]+")


def workflow_name(text: str) -> str:
    """Return a name that a workflow file may have, made of any text."""
    return NAME.sub("-", text).strip("-._")[:64] or "imported"


def workflow_mapping(task: ImageTask, name: str, model: str | None = None) -> Json:
    """Return the content of a workflow file; what the graph has written into its nodes becomes a default.

    ``model`` is a key of the configuration's `models`; without it, it is named after the checkpoint.
    """
    key = model or workflow_name(stem(task.checkpoint or "model"))
    nodes = {node: {"use": use, "model": key, "with": arguments} for node, (use, arguments) in _nodes(task).items()}
    return {
        "apiVersion": "lego.dev/v1",
        "kind": "Workflow",
        "metadata": {"name": name, "version": "1"},
        "inputs": _inputs(task),
        "nodes": nodes,
        "outputs": {"image": "$image"},
    }


def notes(task: ImageTask) -> list[str]:
    """Return what of the graph the file cannot hold: what each request gives, and what is done otherwise."""
    lines = [f"Requests give `lora` {use.name} at the scale {use.scale:g}." for use in task.loras]
    for use in task.controlnets:
        lines.append(
            f"Requests give `controlnet` {use.name}, weight {use.weight:g}, from {use.start:g} to {use.end:g}."
        )
    lines += [f"Instead of {asked}: {done}." for asked, done in task.replaced]
    if task.mask is not None:
        lines.append("Requests give the mask as a PNG whose transparent part changes.")
    return [line if line.isprintable() else ascii(line) for line in lines]


def _inputs(task: ImageTask) -> Json:
    inputs: Json = {"prompt": {"type": "text", "default": task.prompt}}
    if task.is_guided:
        inputs["negative_prompt"] = {"type": "text", "default": task.negative_prompt or ""}
    if task.mask is not None:
        inputs["edit"] = {"type": "edit", "required": True}
        inputs["caption"] = {"type": "text", "default": ""}
    elif task.image is not None:
        inputs["image"] = {"type": "image", "required": True}
    if task.image is not None:
        inputs["strength"] = _number("float", task.strength or 1.0, 0.01, 1.0)
    inputs |= {
        "width": _number("int", task.width or DEFAULT_SIDE, *SIDES),
        "height": _number("int", task.height or DEFAULT_SIDE, *SIDES),
        "steps": _number("int", task.steps or 20, 1, MAX_STEPS),
        "seed": _number("int", task.seed or 0, 0, 2**32 - 1),
        "n": _number("int", task.n, 1, MAX_IMAGES),
        "sampler": {"type": "sampler", "default": task.sampler or "euler"},
    }
    if task.guidance is not None:
        inputs["guidance"] = _number("float", task.guidance, 0.0, MAX_GUIDANCE)
    if task.loras:
        inputs["lora"] = {"type": "adapters", "required": True}
    if task.controlnets:
        inputs["controlnet"] = {"type": "controls", "required": True}
    return inputs


def _number(kind: str, default: float, low: float, high: float) -> Json:
    """Return an input with bounds, wide enough for its default."""
    return {"type": kind, "default": default, "min": min(low, default), "max": max(high, default)}


def _nodes(task: ImageTask) -> dict[str, tuple[str, Json]]:
    adapters: Json = {"adapters": "$adapters"} if task.loras else {}
    nodes: dict[str, tuple[str, Json]] = {}
    if task.loras:
        nodes["adapters"] = ("load_adapters", {"lora": "$inputs.lora"})
    nodes["cond"] = ("text_encode", {"prompt": "$inputs.prompt", **adapters})
    denoise: Json = {"cond": "$cond"}
    if task.is_guided:
        nodes["negative"] = ("text_encode", {"prompt": "$inputs.negative_prompt", **adapters})
        denoise["negative"] = "$negative"
    sizes = _given("width", "height")
    denoise |= _given("width", "height", "steps", "seed", "n", "sampler")
    denoise |= {"guidance": 0.0} if task.guidance is None else _given("guidance")
    if task.controlnets:
        nodes["controls"] = ("encode_controls", {"controlnet": "$inputs.controlnet", **sizes})
        denoise["controls"] = "$controls"
    decode: tuple[str, Json] = ("decode", {"latents": "$latents"})
    if task.mask is not None:
        nodes["prime"] = ("text_encode", {"prompt": "$inputs.caption", **adapters})
        nodes["template"] = ("encode_edit", _given("edit"))
        denoise |= {"edit": "$template", "prime": "$prime", **_given("strength")}
        decode = ("decode_edit", {"latents": "$latents", **_given("edit")})
    elif task.image is not None:
        nodes["encoded"] = ("encode_image", {**_given("image"), **sizes})
        denoise |= {"init": "$encoded", **_given("strength")}
    nodes["latents"] = ("denoise", denoise | adapters)
    nodes["image"] = decode
    return nodes


def _given(*names: str) -> Json:
    return {name: f"$inputs.{name}" for name in names}
