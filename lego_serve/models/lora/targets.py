"""What adapters may change of a family's models, as the family itself says in its ``ADAPTABLE``.

A family without one takes no adapters.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from lego_serve.errors import CheckpointError
from lego_serve.models.registry import ModelSpec, families, family_module

StreamOf = Callable[[str], str]  # a layer's path to the rows it sees: image, text, joint, or branch (one row each)
_ATTRIBUTE = "ADAPTABLE"


@dataclass(frozen=True, slots=True)
class CheckpointAlias:
    """A layer of the model's original code: its name, dots as underscores and N a block's number.

    ``paths`` are diffusers' layers that it is side by side.  ``swapped``: whether its halves lie in the other order
    (diffusers has scale before shift where the original has shift before scale), in the last block alone or in any.
    """

    name: str
    paths: tuple[str, ...]
    swapped: Literal["never", "last", "always"] = "never"


@dataclass(frozen=True, slots=True)
class LoraTargets:
    """Which layers adapters may change, which rows those see, and how trainers name the family and its layers.

    ``transformer`` is diffusers' class of the denoiser, ``texts`` are transformers' classes of text encoders by
    component.  ``stream_of`` is asked for the denoiser's layers.  ``said`` is looked for in what metadata says of
    the base model, ``looks`` in the names of tensors.  ``fixed`` are beginnings of the paths of layers that no adapter
    changes, as they are used once a request and not in every step.
    """

    transformer: str
    stream_of: StreamOf
    said: re.Pattern[str]
    looks: re.Pattern[str]
    texts: Mapping[str, str] = field(default_factory=dict)
    fixed: tuple[str, ...] = ()
    originals: tuple[CheckpointAlias, ...] = ()


def stream_by_name(path: str) -> str:
    """The rows a layer sees, where a family has diffusers' usual names: modulation, single blocks, added text."""
    if re.search(r"norm\w*\.linear$", path):
        return "branch"
    if ".single_transformer_blocks." in path:
        return "joint"
    return "text" if re.search(r"\.add_[qkv]_proj$|\.to_add_out$|\.ff_context\.", path) else "image"


def lora_targets() -> dict[str, LoraTargets]:
    """What each family says that takes adapters."""
    said = {family: getattr(family_module(family), _ATTRIBUTE, None) for family in families()}
    return {family: adaptable for family, adaptable in said.items() if adaptable is not None}


def lora_targets_of(spec: ModelSpec) -> LoraTargets:
    """What a model's family says.  Raises CheckpointError for one that takes no adapters."""
    known = lora_targets()
    if spec.family not in known:
        raise CheckpointError(f"model {spec.name}: family {spec.family!r} takes no adapters")
    return known[spec.family]
