"""Options of each node kind, made from the configuration; importable without torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from lego_serve.core.scheduling.autoscaling import NO_BUDGET, ReplicaBounds, ReplicaShare
from lego_serve.core.scheduling.controlnet_placement import Link
from lego_serve.core.tiers.book import TierBook
from lego_serve.models.registry import ModelSpec

MaxBatch: TypeAlias = int | Literal["auto"]


@dataclass(frozen=True, slots=True)
class AdapterOptions:
    """The LoRA node's application of a replica's model, and the bytes of its adapter cache."""

    lora_app: str
    cache_bytes: int


@dataclass(frozen=True, slots=True)
class NodePlace:
    """Where a node's calls go: its own application, or that of the shared workers, who are told its name."""

    app: str
    hosted: str = ""


@dataclass(frozen=True, slots=True)
class TextEncoderOptions:
    """Options of a text encoder; ``max_batch`` prompts a pass, ``cache_bytes`` of encoded prompts."""

    max_batch: MaxBatch = "auto"
    cache_bytes: int = 64 * 2**20
    adapters: AdapterOptions | None = None


@dataclass(frozen=True, slots=True)
class VaeOptions:
    """Options of a VAE; ``max_batch`` images a pass."""

    max_batch: MaxBatch = "auto"


@dataclass(frozen=True, slots=True)
class ControlNetPlan:
    """The placement of a ControlNet: colocated, in its own deployment ``app``, or the faster of both over ``link``."""

    spec: ModelSpec
    placement: Literal["auto", "colocated", "remote"]
    app: str
    link: Link | None = None
    stream_blocks: bool | Literal["auto"] = "auto"
    timeout_s: float = 120.0


@dataclass(frozen=True, slots=True)
class TemplateOptions:
    """Options of a backbone replica's template store: bytes, coding, and the bytes a tenant may pin."""

    max_bytes: int = 0
    coding: str = "bfloat16"
    tenant_pinned_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class BackboneOptions:
    """Options of a backbone: lane policy, bounds of a step, checkpoints, and add-ons.

    ``max_step_s`` bounds the predicted seconds of a step, ``max_rows`` its token rows; None leaves them to be
    calibrated.  ``controlnet_bytes`` are kept of ControlNets loaded here; None keeps all.  ``helpers``: where there
    may be other replicas of it, which take the guidance branch of a lane that is alone.  ``checkpoint_tier``: the tier
    whose checkpoint it computes on, and it runs no other; empty where it has its model's own weights.
    """

    lane_policy: str = "least_slack"
    max_step_s: float | None = None
    max_rows: int | None = None
    checkpoint_every_steps: int = 5
    batch_invariant: bool = True
    bucket_rows: int = 1
    adapters: AdapterOptions | None = None
    adapter_mode: str = "grouped"
    controlnets: tuple[ControlNetPlan, ...] = ()
    controlnet_bytes: int | None = None
    templates: TemplateOptions = TemplateOptions()
    tiers: TierBook = field(default_factory=TierBook)
    helpers: NodePlace | None = None
    checkpoint_tier: str = ""

    @property
    def resident_controlnets(self) -> tuple[ModelSpec, ...]:
        """The ControlNets that a replica may load and then keep; those beyond a cache are in its ``controlnet_bytes``.

        One whose place is chosen at its first use counts: it may be here.
        """
        has_cache = self.controlnet_bytes is not None
        kept = ("auto",) if has_cache else ("auto", "colocated")
        return tuple(plan.spec for plan in self.controlnets if plan.placement in kept)


@dataclass(frozen=True, slots=True)
class LoraOptions:
    """Options of a LoRA node: the folders of adapters, its cache, and the file of registered names.

    ``own_profiles`` has profiles of the package's own adapters; ``registry`` is the file of names registered at run
    time, at most ``registry_limit``.
    """

    roots: tuple[Path, ...]
    cache_bytes: int
    registry_limit: int = 0
    profiles: Path | None = None
    early_start: bool = False
    registry: Path | None = None
    own_profiles: Path | None = None


@dataclass(frozen=True, slots=True)
class ControlNetOptions:
    """Options of a ControlNet node: its base model."""

    base: ModelSpec


@dataclass(frozen=True, slots=True)
class HostedNode:
    """A node that shared workers can load, by its name ``MODEL.COMPONENT``."""

    spec: ModelSpec
    component: str
    options: TextEncoderOptions | VaeOptions | BackboneOptions

    @property
    def name(self) -> str:
        """Its name among all nodes of the workers."""
        return f"{self.spec.name}.{self.component}"


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """Options of a shared worker: the nodes it may load, the bytes of them it keeps, whether it loads at its start.

    ``host_bytes`` are kept in host memory of what was evicted from another device than the CPU.
    """

    nodes: tuple[HostedNode, ...]
    max_bytes: int
    preload: bool = True
    host_bytes: int = 0


NodeOptions: TypeAlias = (
    TextEncoderOptions | VaeOptions | BackboneOptions | LoraOptions | ControlNetOptions | WorkerOptions
)


@dataclass(frozen=True, slots=True)
class Placement:
    """Where replicas may run: labels of the Ray node, bytes of its memory, and how many may share one."""

    labels: Mapping[str, str] = field(default_factory=dict)
    memory_bytes: int = 0
    max_per_node: int | None = None


@dataclass(frozen=True, slots=True)
class NodePlan:
    """One deployment: its model, component and options, its replica bounds, and the resources of a replica.

    ``share``: what a replica takes of the budget of all.  ``server`` is the name of the server that it belongs to;
    several servers on one Ray have different ones.
    """

    spec: ModelSpec
    component: str
    options: NodeOptions
    replicas: ReplicaBounds
    cpus: float
    gpus: float
    placement: Placement = Placement()
    server: str | None = None
    share: ReplicaShare = NO_BUDGET

    @property
    def app(self) -> str:
        """The name of its Serve application."""
        return app_name(self.server, self.spec.name, self.component)

    @property
    def hosted(self) -> HostedNode:
        """The same node on shared workers."""
        assert isinstance(self.options, TextEncoderOptions | VaeOptions | BackboneOptions), f"{self.app} has its own"
        return HostedNode(self.spec, self.component, self.options)


WORKER_POOL, WORKERS = "shared", "workers"  # the names of the shared workers' application, `shared.workers`


def app_name(server: str | None, model: str, component: str) -> str:
    """Return the name of a node's Serve application."""
    return ".".join(part for part in (server, model, component) if part)
