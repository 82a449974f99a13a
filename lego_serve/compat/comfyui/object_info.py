"""What ``/object_info`` says of the nodes that are translated."""

from collections.abc import Mapping, Sequence

from lego_serve.compat.comfyui.nodes import ANY_WORD, CLASSES, IMAGES, OWN_LISTS, Input, NodeClass

Json = dict[str, object]
OWN_PART = "built-in"  # a model's own text encoders and VAE, the only ones there are


def object_info(lists: Mapping[str, Sequence[str]], class_name: str | None = None) -> Json:
    """Return the descriptions of all classes, or of one; empty for a class that is not known.

    ``lists`` has what the server offers: models, adapters, ControlNets and uploads, by the names of `nodes`.
    """
    wanted = CLASSES if class_name is None else {class_name: CLASSES[class_name]} if class_name in CLASSES else {}
    return {name: _described(known, lists) for name, known in wanted.items()}


def _described(known: NodeClass, lists: Mapping[str, Sequence[str]]) -> Json:
    required = {declared.name: _input(declared, lists) for declared in known.required}
    optional = {declared.name: _input(declared, lists) for declared in known.inputs if not declared.is_required}
    hidden = {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"} if known.is_output else {}
    groups = (
        {"required": required} | ({"optional": optional} if optional else {}) | ({"hidden": hidden} if hidden else {})
    )
    return {
        "input": groups,
        "input_order": {group: list(inputs) for group, inputs in groups.items()},
        "output": [kind for kind, _ in known.outputs],
        "output_is_list": [False for _ in known.outputs],
        "output_name": [name for _, name in known.outputs],
        "name": known.name,
        "display_name": known.title or known.name,
        "description": "",
        "python_module": "nodes",
        "category": known.category,
        "output_node": known.is_output,
        "output_tooltips": ["" for _ in known.outputs],
    }


def choices_of(declared: Input, lists: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the words that a COMBO input takes."""
    if declared.choices in OWN_LISTS:
        fallback = (OWN_PART,) if declared.choices in ANY_WORD else ()
        return list(lists.get(str(declared.choices), fallback))
    return list(declared.choices)


def _input(declared: Input, lists: Mapping[str, Sequence[str]]) -> list[object]:
    if declared.is_link:
        return [declared.type]
    options: Json = {} if declared.default is None else {"default": declared.default}
    if declared.type == "COMBO":
        uploads: Json = {"image_upload": True} if declared.choices == IMAGES else {}
        return [choices_of(declared, lists), options | uploads]
    bounds = {"min": declared.low, "max": declared.high, "step": declared.step}
    options |= {word: bound for word, bound in bounds.items() if bound is not None}
    if declared.name == "text":
        options |= {"multiline": True, "dynamicPrompts": True}
    return [declared.type, options]
