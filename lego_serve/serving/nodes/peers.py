"""What a node has besides its own model: other deployments that it calls, and what its process's nodes share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from lego_serve.core.jobs.suspects import NoWitness, Witness
from lego_serve.engine.sharing.compute_turns import ComputeTurns
from lego_serve.engine.sharing.measurements import Measurements
from lego_serve.serving.caches.adapter_cache import LoraNodeHandle
from lego_serve.serving.nodes.branch_helpers import ReplicaGroup
from lego_serve.serving.nodes.controlnets.remote import ControlNetHandle
from lego_serve.serving.nodes.host_weights import HostWeights

ModelT = TypeVar("ModelT")


@dataclass(frozen=True, slots=True)
class NodePeers:
    """The LoRA node of a model, its ControlNets by name and all replicas of the node itself, which may help it.

    Of the process: turns to compute, measurements, the address at which other replicas reach it, and who remembers
    which suspects it runs.  ``host_weights``: the node's own model, where it was evicted and its weights were kept.
    """

    lora_node: LoraNodeHandle | None = None
    controlnets: Mapping[str, ControlNetHandle] = field(default_factory=dict)
    replicas: ReplicaGroup | None = None
    turns: ComputeTurns | None = None
    measurements: Measurements = field(default_factory=Measurements)
    host: Callable[[], str] = lambda: "127.0.0.1"
    witness: Witness = field(default_factory=NoWitness)
    host_weights: HostWeights[Any] | None = None

    def model(self, load: Callable[[], ModelT]) -> ModelT:
        """Return the node's model, its weights moved back from host memory or loaded."""
        if self.host_weights is None:
            return load()
        model: ModelT = self.host_weights.restored()
        return model
