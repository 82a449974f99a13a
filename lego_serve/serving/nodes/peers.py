"""Handles of the other deployments that a node calls."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from lego_serve.serving.caches.adapter_cache import LoraNodeHandle
from lego_serve.serving.nodes.controlnets.remote import ControlNetHandle


@dataclass(frozen=True, slots=True)
class NodePeers:
    """The LoRA node of a model, and its ControlNets by name."""

    lora_node: LoraNodeHandle | None = None
    controlnets: Mapping[str, ControlNetHandle] = field(default_factory=dict)
