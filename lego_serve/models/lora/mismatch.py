"""An adapter of the right family that was made for another of its models: which one, as far as it tells, and ours.

A file may say what it was made for in words of its trainer, of which only plain and short ones are repeated.  Its
layers tell the width of that model, and at least how many blocks it has.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lego_serve.errors import InvalidAdapter
from lego_serve.models.lora.checkpoint import refusal
from lego_serve.models.lora.targets import lora_targets

_SAID_OF_OTHERS = (  # patterns of what trainers write of base models that are no family here, most particular first
    (re.compile(r"sdxl|stable-diffusion-xl|sd[-_ ]?xl", re.I), "Stable Diffusion XL"),
    (re.compile(r"^sd_?v?[12]|stable-diffusion-v[12]", re.I), "Stable Diffusion 1 or 2"),
    (re.compile(r"wan|hunyuan|qwen|lumina|cogvideo|ltx|z[-_]?image", re.I), "another kind of model"),
)
_LOOKS_OF_OTHERS = (
    (
        re.compile(r"down_blocks|up_blocks|mid_block|input_blocks|output_blocks|middle_block"),
        "Stable Diffusion 1, 2 or XL",
    ),
)
BASE_KEYS = ("modelspec.architecture", "ss_base_model_version")


def made_for(metadata: Mapping[str, str]) -> str | None:
    """The family an adapter says it was made for; None where it does not say, or not in words known here."""
    patterns = [*((said.said, family) for family, said in lora_targets().items()), *_SAID_OF_OTHERS]
    for key in BASE_KEYS:
        said = metadata.get(key, "")
        for words, family in patterns:
            if words.search(said):
                return family
    return None


def resembles(keys: Iterable[str]) -> str | None:
    """The family whose layer names these look like, the first of several; None where they look like none."""
    patterns = [*((said.looks, family) for family, said in lora_targets().items()), *_LOOKS_OF_OTHERS]
    names = list(keys)
    return next((family for words, family in patterns if any(words.search(name) for name in names)), None)


PEFT_METADATA = "lora_adapter_metadata"
BASE_NAME = "base_model_name_or_path"
STRANGE = re.compile(r"[^A-Za-z0-9 ._()-]")
STACK = re.compile(r"(.+?)\.(\d+)\.")
Shapes = Mapping[str, tuple[int, int]]  # by canonical path: outputs, inputs


@dataclass(frozen=True, slots=True)
class LayerShape:
    """A layer that an adapter changes: the path of one like it in our model, the block it names, and its inputs."""

    path: str
    block: int | None
    inputs: int


def says(metadata: Mapping[str, str]) -> str | None:
    """The model a file says it was made for, fit to be told; None where it does not say."""
    told = (
        *_peft_names(metadata.get(PEFT_METADATA, "")),
        _last(metadata.get(BASE_NAME, "")),
        _last(metadata.get("ss_sd_model_name", "")),
        metadata.get("ss_base_model_version", ""),
        metadata.get("modelspec.architecture", "").partition("/")[0],  # what follows says what is adapted of it
        metadata.get("modelspec.title", ""),
    )
    plain = (STRANGE.sub("?", words[:200]).strip()[:60] for words in told)
    return next((words for words in plain if words.strip(" ?")), None)


def other_model(
    adapter_id: str,
    model: str,
    shapes: Shapes,
    metadata: Mapping[str, str],
    likes: Sequence[LayerShape],
    at: LayerShape,
    why: str,
) -> InvalidAdapter:
    """The refusal of an adapter for one of its layers, naming the model it was made for and ours."""
    component = at.path.partition(".")[0]
    blocks = _stacks(shapes)
    stack = _stack(at.path) or next((name for name in blocks if name.startswith(f"{component}.")), "")
    width = _most_common(inputs for path, (_, inputs) in shapes.items() if path.startswith(f"{component}."))
    own = [like for like in likes if like.path.startswith(f"{component}.")]
    theirs = _most_common(like.inputs for like in own if shapes[like.path][1] == width)
    count = max((1 + like.block for like in own if like.block is not None and _stack(like.path) == stack), default=0)
    told = [] if theirs is None else [f"width {theirs}"]
    told += [f"{_blocks(count)} or more"] if count else []
    said, form = says(metadata), " and ".join(told)
    name = f"{said}, as it says" + (f" ({form})" if form else "") if said else f"a model of {form or 'another form'}"
    ours = f"{model} has width {width} and {_blocks(blocks.get(stack, 0))}"
    return refusal(adapter_id, f"was made for another model than {model}: for {name}, while {ours}; {why}")


def _blocks(count: int) -> str:
    return "1 block" if count == 1 else f"{count} blocks"


def _stack(path: str) -> str | None:
    """The path of the blocks a layer is in one of."""
    found = STACK.match(path)
    return found[1] if found else None


def _stacks(shapes: Shapes) -> dict[str, int]:
    """The number of blocks by the path of each such row of them."""
    counts: dict[str, int] = {}
    for found in map(STACK.match, shapes):
        if found:
            counts[found[1]] = max(counts.get(found[1], 0), 1 + int(found[2]))
    return counts


def _most_common(numbers: Iterable[int]) -> int | None:
    return next((number for number, _ in Counter(numbers).most_common(1)), None)


def _last(name_or_path: str) -> str:
    """The last part of a path or of a hub's name: no more of a path is repeated."""
    return re.split(r"[/\\]", name_or_path.rstrip("/\\"))[-1]


def _peft_names(settings: str) -> list[str]:
    """What PEFT's settings, as diffusers writes them into the metadata, call the base model."""
    try:
        said = json.loads(settings)
    except (ValueError, RecursionError):
        return []
    given = said.items() if isinstance(said, dict) else ()
    return [_last(value) for key, value in given if key.endswith(BASE_NAME) and isinstance(value, str)]
