"""Workflows: typed graphs of model calls, as values.

A workflow has one canonical form (plain dicts, keys sorted) and a hash of it; Python and YAML
declarations both compile to it, through `workflow_check.py`.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

API_VERSION = "lego.dev/v1"
INPUT_TYPES = ("text", "int", "float", "bool", "image", "sampler", "adapters", "controls", "edit")
OUTPUTS: Mapping[str, str] = {"image": "image"}  # what a workflow gives its client, by name, and of which type


@dataclass(frozen=True, slots=True)
class Input:
    """A value the request may or must carry; bounds are inclusive and belong to numbers."""

    type: str
    required: bool = False
    default: object = None
    min: float | None = None
    max: float | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """Where an argument comes from: ``$inputs.name`` (node "inputs") or ``$node.output``."""

    node: str
    output: str

    def __str__(self) -> str:
        return f"${self.node}.{self.output}"


@dataclass(frozen=True, slots=True)
class Node:
    """One model call: what kind, of which model, with which arguments (a Source or a literal)."""

    name: str
    kind: str
    model: str
    arguments: Mapping[str, object] = field(default_factory=dict)

    @property
    def needs(self) -> frozenset[str]:
        """The nodes whose values it takes."""
        sources = (value for value in self.arguments.values() if isinstance(value, Source))
        return frozenset(source.node for source in sources if source.node != "inputs")


@dataclass(frozen=True, slots=True)
class Kind:
    """The signature of a kind of node: argument types (required ones marked) and output types."""

    component: str
    arguments: Mapping[str, str]
    required: frozenset[str]
    outputs: Mapping[str, str]


KINDS: Mapping[str, Kind] = {
    "text_encode": Kind(
        "text_encoder",
        {"prompt": "text", "adapters": "loaded_adapters"},
        frozenset({"prompt"}),
        {"cond": "conditioning"},
    ),
    # Answers as soon as it is known which adapters they are; whoever uses them waits for their weights.
    "load_adapters": Kind("adapters", {"lora": "adapters"}, frozenset({"lora"}), {"adapters": "loaded_adapters"}),
    "encode_image": Kind(
        "vae",
        {"image": "image", "width": "int", "height": "int"},
        frozenset({"image", "width", "height"}),
        {"latents": "image_latents"},  # an image's posterior: something to start from, nothing to decode
    ),
    "encode_controls": Kind(
        "vae",
        {"controlnet": "controls", "width": "int", "height": "int"},
        frozenset({"controlnet", "width", "height"}),
        {"controls": "control_latents"},
    ),
    "encode_edit": Kind("vae", {"edit": "edit"}, frozenset({"edit"}), {"edit": "edit_latents"}),
    "denoise": Kind(
        "backbone",
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
            "guidance_start": "float",
            "guidance_end": "float",
            "adapters": "loaded_adapters",
            "controls": "control_latents",
            "edit": "edit_latents",
            "prime": "conditioning",
        },
        frozenset({"cond", "width", "height", "steps", "guidance", "seed", "n"}),
        {"latents": "latents"},
    ),
    "decode": Kind("vae", {"latents": "latents"}, frozenset({"latents"}), {"image": "image"}),
    "decode_edit": Kind(
        "vae", {"latents": "latents", "edit": "edit"}, frozenset({"latents", "edit"}), {"image": "image"}
    ),
}


@dataclass(frozen=True, slots=True)
class Workflow:
    """A validated graph; ``outputs`` names what the client gets.

    ``min_ssim`` is the least likeness (SSIM in the mask) that edits which read activations must have, on average, to
    those computed in full; None asks nothing of them.
    """

    name: str
    version: str
    inputs: Mapping[str, Input]
    nodes: Mapping[str, Node]
    outputs: Mapping[str, Source]
    min_ssim: float | None = None

    @property
    def models(self) -> frozenset[str]:
        """The models its nodes call."""
        return frozenset(node.model for node in self.nodes.values())

    def canonical(self) -> dict[str, Any]:
        """The one canonical form, in plain JSON values."""
        floor = {} if self.min_ssim is None else {"min_ssim": self.min_ssim}
        return {
            "apiVersion": API_VERSION,
            "kind": "Workflow",
            "metadata": {"name": self.name, "version": self.version} | floor,
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
    found: dict[str, object] = {"type": value.type}
    if value.required:
        found["required"] = True
    optional = {"default": value.default, "min": value.min, "max": value.max}
    return found | {key: said for key, said in optional.items() if said is not None}
