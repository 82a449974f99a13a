"""Says which model an adapter was made for, where that is not the model it is loaded for.

A file's metadata may name its base model in the trainer's words, of which only plain and short ones are repeated.  Its
layers tell the width of that model, and at least how many blocks it has.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lego_serve.errors import InvalidAdapter
from lego_serve.models.lora.checkpoint import refusal
from lego_serve.models.lora.header import PEFT_METADATA
from lego_serve.models.lora.targets import lora_targets

_OTHER_MODELS = (  # patterns of names trainers give base models that are no family here, most particular first
    (re.compile(r"sdxl|stable-diffusion-xl|sd[-_ ]?xl", re.I), "Stable Diffusion XL"),
    (re.compile(r"^sd_?v?[12]|stable-diffusion-v[12]", re.I), "Stable Diffusion 1 or 2"),
    (re.compile(r"wan|hunyuan|qwen|lumina|cogvideo|ltx|z[-_]?image", re.I), "another kind of model"),
)
_OTHER_LAYERS = (  # patterns of such models' layer names
    (
        re.compile(r"down_blocks|up_blocks|mid_block|input_blocks|output_blocks|middle_block"),
        "Stable Diffusion 1, 2 or XL",
    ),
)
BASE_KEYS = ("modelspec.architecture", "ss_base_model_version")


def made_for(metadata: Mapping[str, str]) -> str | None:
    """Return the family that a file's metadata names; None where it names none, or none known here."""
    patterns = [*((targets.base_model_pattern, family) for family, targets in lora_targets().items()), *_OTHER_MODELS]
    for key in BASE_KEYS:
        base_model = metadata.get(key, "")
        for name_pattern, family in patterns:
            if name_pattern.search(base_model):
                return family
    return None


def resembles(keys: Iterable[str]) -> str | None:
    """Return the first family whose layer names these resemble; None where there is none."""
    patterns = [*((targets.layer_pattern, family) for family, targets in lora_targets().items()), *_OTHER_LAYERS]
    names = list(keys)
    return next((family for layers, family in patterns if any(layers.search(name) for name in names)), None)


BASE_NAME = "base_model_name_or_path"
STRANGE = re.compile(r"[^A-Za-z0-9 ._()-]")
STACK = re.compile(r"(.+?)\.(\d+)\.")
Shapes = Mapping[str, tuple[int, int]]  # by canonical path: outputs, inputs


@dataclass(frozen=True, slots=True)
class LayerShape:
    """A layer that an adapter changes: the path of the corresponding one in our model, its block, and its inputs."""

    path: str
    block: int | None
    inputs: int


def base_model_named(metadata: Mapping[str, str]) -> str | None:
    """Return the base model that a file's metadata names, safe to repeat; None where it names none."""
    names = (
        *_peft_names(metadata.get(PEFT_METADATA, "")),
        _last(metadata.get(BASE_NAME, "")),
        _last(metadata.get("ss_sd_model_name", "")),
        metadata.get("ss_base_model_version", ""),
        metadata.get("modelspec.architecture", "").partition("/")[0],  # the rest says what of the model is adapted
        metadata.get("modelspec.title", ""),
    )
    plain = (STRANGE.sub("?", name[:200]).strip()[:60] for name in names)
    return next((name for name in plain if name.strip(" ?")), None)


def other_model(
    adapter_id: str,
    model: str,
    shapes: Shapes,
    metadata: Mapping[str, str],
    layers: Sequence[LayerShape],
    misfit: LayerShape,
    why: str,
) -> InvalidAdapter:
    """Make the refusal of an adapter for one of its ``layers``, naming the model it was made for and ours."""
    component = misfit.path.partition(".")[0]
    blocks = _stacks(shapes)
    stack = _stack(misfit.path) or next((name for name in blocks if name.startswith(f"{component}.")), "")
    width = _most_common(inputs for path, (_, inputs) in shapes.items() if path.startswith(f"{component}."))
    of_component = [layer for layer in layers if layer.path.startswith(f"{component}.")]
    in_stack = [layer.block for layer in of_component if layer.block is not None and _stack(layer.path) == stack]
    their_width = _most_common(layer.inputs for layer in of_component if shapes[layer.path][1] == width)
    theirs = [] if their_width is None else [f"width {their_width}"]
    theirs += [f"{_blocks(1 + max(in_stack))} or more"] if in_stack else []
    form, name = " and ".join(theirs), base_model_named(metadata)
    if name is None:
        other = f"a model of {form or 'another form'}"
    else:
        other = f"{name}, as it says" + (f" ({form})" if form else "")
    ours = f"{model} has width {width} and {_blocks(blocks.get(stack, 0))}"
    return refusal(adapter_id, f"was made for another model than {model}: for {other}, while {ours}; {why}")


def _blocks(count: int) -> str:
    return "1 block" if count == 1 else f"{count} blocks"


def _stack(path: str) -> str | None:
    """Return the path of the stack of blocks that a layer is in."""
    match = STACK.match(path)
    return match[1] if match else None


def _stacks(shapes: Shapes) -> dict[str, int]:
    """Count the blocks of each stack, by its path."""
    counts: dict[str, int] = {}
    for match in map(STACK.match, shapes):
        if match:
            counts[match[1]] = max(counts.get(match[1], 0), 1 + int(match[2]))
    return counts


def _most_common(numbers: Iterable[int]) -> int | None:
    return next((number for number, _ in Counter(numbers).most_common(1)), None)


def _last(name_or_path: str) -> str:
    """Return the last part of a path or of a hub's name: no more of a path is repeated."""
    return re.split(r"[/\\]", name_or_path.rstrip("/\\"))[-1]


def _peft_names(settings: str) -> list[str]:
    """Return the names of the base model in PEFT's settings, as diffusers writes them into the metadata."""
    try:
        parsed = json.loads(settings)
    except (ValueError, RecursionError):
        return []
    entries = parsed.items() if isinstance(parsed, dict) else ()
    return [_last(value) for key, value in entries if key.endswith(BASE_NAME) and isinstance(value, str)]
