"""Workflows: typed graphs of model calls, as values.

A workflow has one canonical form (plain dicts, keys sorted) and a hash of it; Python and YAML declarations both compile
to it, through `compile.py`.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lego_serve.core.nodes.messages import (
    DecodeEditInput,
    DecodeInput,
    DenoiseInput,
    EncodeControlsInput,
    EncodeEditInput,
    EncodeImageInput,
    LoadAdaptersInput,
    TextEncodeInput,
)
from lego_serve.core.values import NodeRequest

API_VERSION = "lego.dev/v1"
INPUT_TYPES = ("text", "int", "float", "bool", "image", "sampler", "tier", "adapters", "controls", "edit")
OUTPUTS: Mapping[str, str] = {"image": "image"}  # name and type of what a client receives


@dataclass(frozen=True, slots=True)
class Input:
    """A declared input, which a request may or must give; bounds are inclusive and only for numbers."""

    type: str
    required: bool = False
    default: object = None
    min: float | None = None
    max: float | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """The source of an argument: ``$inputs.name`` (node "inputs") or ``$node.output``."""

    node: str
    output: str

    def __str__(self) -> str:
        return f"${self.node}.{self.output}"


@dataclass(frozen=True, slots=True)
class Node:
    """One model call: its kind, its model and its arguments, each a Source or a literal.

    ``tier`` is empty in a declaration; for a job it is the tier whose checkpoint the node computes on.
    """

    name: str
    kind: str
    model: str
    arguments: Mapping[str, object] = field(default_factory=dict)
    tier: str = ""

    @property
    def component(self) -> str:
        """The component of its model that it calls."""
        own = KINDS[self.kind].component
        return checkpoint_component(self.tier) if self.tier else own

    @property
    def needs(self) -> frozenset[str]:
        """The nodes whose outputs it takes."""
        sources = (value for value in self.arguments.values() if isinstance(value, Source))
        return frozenset(source.node for source in sources if source.node != "inputs")


@dataclass(frozen=True, slots=True)
class Kind:
    """The signature of a kind of node: its input class, argument types (required ones marked) and output types."""

    component: str
    input: type[NodeRequest[Any]]
    arguments: Mapping[str, str]
    required: frozenset[str]
    outputs: Mapping[str, str]


KINDS: Mapping[str, Kind] = {
    "text_encode": Kind(
        "text_encoder",
        TextEncodeInput,
        {"prompt": "text", "adapters": "loaded_adapters"},
        frozenset({"prompt"}),
        {"cond": "conditioning"},
    ),
    # Returns as soon as the adapters are identified; the nodes that use them wait for the weights.
    "load_adapters": Kind(
        "adapters", LoadAdaptersInput, {"lora": "adapters"}, frozenset({"lora"}), {"adapters": "loaded_adapters"}
    ),
    "encode_image": Kind(
        "vae",
        EncodeImageInput,
        {"image": "image", "width": "int", "height": "int"},
        frozenset({"image", "width", "height"}),
        {"latents": "image_latents"},  # an image's posterior, to start denoising from; it cannot be decoded
    ),
    "encode_controls": Kind(
        "vae",
        EncodeControlsInput,
        {"controlnet": "controls", "width": "int", "height": "int"},
        frozenset({"controlnet", "width", "height"}),
        {"controls": "control_latents"},
    ),
    "encode_edit": Kind("vae", EncodeEditInput, {"edit": "edit"}, frozenset({"edit"}), {"edit": "edit_latents"}),
    "denoise": Kind(
        "backbone",
        DenoiseInput,
        {
            "cond": "conditioning",
            "negative": "conditioning",
            "width": "int",
            "height": "int",
            "steps": "int",
            "guidance": "float",
            "seed": "int",
            "n": "int",
            "init": "image_latents",
            "strength": "float",
            "sampler": "sampler",
            "tier": "tier",
            "guidance_start": "float",
            "guidance_end": "float",
            "adapters": "loaded_adapters",
            "controls": "control_latents",
            "edit": "edit_latents",
            "prime": "conditioning",
            "reference": "image_latents",
        },
        frozenset({"cond", "width", "height", "steps", "guidance", "seed", "n"}),
        {"latents": "latents"},
    ),
    "decode": Kind("vae", DecodeInput, {"latents": "latents"}, frozenset({"latents"}), {"image": "image"}),
    "decode_edit": Kind(
        "vae",
        DecodeEditInput,
        {"latents": "latents", "edit": "edit"},
        frozenset({"latents", "edit"}),
        {"image": "image"},
    ),
}


BACKBONE = KINDS["denoise"].component


def checkpoint_component(tier: str) -> str:
    """Return the component that denoises on the checkpoint of a tier."""
    return f"{BACKBONE}-{tier}"


def tier_of(component: str) -> str:
    """Return the tier whose checkpoint a component denoises on; empty for any other component."""
    name, _, tier = component.partition("-")
    return tier if name == BACKBONE else ""


def is_backbone(component: str) -> bool:
    """Whether a component denoises, on its model's own weights or on those of a tier."""
    return component == BACKBONE or tier_of(component) != ""


@dataclass(frozen=True, slots=True)
class Workflow:
    """A validated graph; ``outputs`` names what the client receives.

    ``min_ssim``: the least mean SSIM, inside the mask, between edits that reuse activations and the same edits computed
    in full; None sets no minimum.  ``slo_s``: the seconds in which a request of it should be answered; None sets none.
    """

    name: str
    version: str
    inputs: Mapping[str, Input]
    nodes: Mapping[str, Node]
    outputs: Mapping[str, Source]
    min_ssim: float | None = None
    slo_s: float | None = None

    @property
    def models(self) -> frozenset[str]:
        """The models its nodes call."""
        return frozenset(node.model for node in self.nodes.values())

    def followers(self, node: str) -> frozenset[str]:
        """The nodes that need what a node puts out, at once or by way of others."""
        found: set[str] = set()
        frontier = {node}
        while frontier:
            frontier = {name for name, each in self.nodes.items() if each.needs & frontier} - found
            found |= frontier
        return frozenset(found)

    def canonical(self) -> dict[str, Any]:
        """Return the canonical form, in plain JSON values."""
        optional = {"min_ssim": self.min_ssim, "slo_s": self.slo_s}
        given = {name: value for name, value in optional.items() if value is not None}
        return {
            "apiVersion": API_VERSION,
            "kind": "Workflow",
            "metadata": {"name": self.name, "version": self.version} | given,
            "inputs": {name: _input(value) for name, value in sorted(self.inputs.items())},
            "nodes": {
                name: {"use": n.kind, "model": n.model, "with": {k: _plain(v) for k, v in sorted(n.arguments.items())}}
                for name, n in sorted(self.nodes.items())
            },
            "outputs": {name: str(source) for name, source in sorted(self.outputs.items())},
        }

    @property
    def content_hash(self) -> str:
        """SHA-256 of the canonical form."""
        text = json.dumps(self.canonical(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: object) -> object:
    if isinstance(value, Source):
        return str(value)
    return f"${value}" if isinstance(value, str) and value.startswith("$") else value


def _input(value: Input) -> dict[str, object]:
    fields: dict[str, object] = {"type": value.type}
    if value.required:
        fields["required"] = True
    optional = {"default": value.default, "min": value.min, "max": value.max}
    return fields | {key: content for key, content in optional.items() if content is not None}
