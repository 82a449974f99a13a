"""The layers of a family's models that adapters may change, as the family declares in its ``LORA_TARGETS``.

A family without one takes no adapters.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from lego_serve.errors import CheckpointError
from lego_serve.models.registry import ModelSpec, families, family_module

StreamOf = Callable[[str], str]  # a layer's path to the rows it sees: image, text, joint, or branch (one row each)
_ATTRIBUTE = "LORA_TARGETS"


@dataclass(frozen=True, slots=True)
class CheckpointAlias:
    """The name of a layer in the model's original code, dots as underscores and N for a block's number.

    ``paths`` are the layers in diffusers that it holds side by side.  ``swapped`` says in which blocks its halves lie
    in the other order (diffusers has scale before shift where the original has shift before scale).
    """

    name: str
    paths: tuple[str, ...]
    swapped: Literal["never", "last", "always"] = "never"


@dataclass(frozen=True, slots=True)
class LoraTargets:
    """Which layers adapters may change, which rows those see, and how trainers name the family and its layers.

    ``transformer`` is diffusers' class of the denoiser, ``texts`` are transformers' classes of text encoders by
    component.  ``stream_of`` maps the denoiser's layers to the rows they see.  ``base_model_pattern`` matches
    names of its models in metadata, ``layer_pattern`` the names of tensors.  ``fixed`` are beginnings of the paths of
    layers that no adapter changes, as they run once a request and not in every step.  ``aliases`` are the layers' names
    in the original code.
    """

    transformer: str
    stream_of: StreamOf
    base_model_pattern: re.Pattern[str]
    layer_pattern: re.Pattern[str]
    texts: Mapping[str, str] = field(default_factory=dict)
    fixed: tuple[str, ...] = ()
    aliases: tuple[CheckpointAlias, ...] = ()


def stream_by_name(path: str) -> str:
    """Return the rows a layer sees, where a family uses diffusers' usual names."""
    if re.search(r"norm\w*\.linear$", path):
        return "branch"
    if ".single_transformer_blocks." in path:
        return "joint"
    return "text" if re.search(r"\.add_[qkv]_proj$|\.to_add_out$|\.ff_context\.", path) else "image"


def text_layer_path(path: str) -> str:
    """Return the path of a CLIP layer as files name it, whatever the installed transformers calls it.

    Files say ``text_model.encoder.layers``, as does CLIPTextModelWithProjection; since transformers 5 CLIPTextModel has
    its layers at ``encoder.layers``.  Layers of other modules keep their path.
    """
    return f"text_model.{path}" if path.startswith("encoder.layers.") else path


def lora_targets() -> dict[str, LoraTargets]:
    """Return the targets of each family that takes adapters."""
    declared = {family: getattr(family_module(family), _ATTRIBUTE, None) for family in families()}
    return {family: targets for family, targets in declared.items() if targets is not None}


def lora_targets_of(spec: ModelSpec) -> LoraTargets:
    """Return the targets of a model's family.  Raises CheckpointError for one that takes no adapters."""
    targets = lora_targets()
    if spec.family not in targets:
        raise CheckpointError(f"model {spec.name}: family {spec.family!r} takes no adapters")
    return targets[spec.family]
