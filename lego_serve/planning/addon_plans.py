"""The plans of add-ons: LoRA nodes and ControlNets, and what every plan has."""

import logging
from dataclasses import replace
from pathlib import Path

from lego_serve import config
from lego_serve.configuration.models import Placed
from lego_serve.core.scheduling.autoscaling import ReplicaBounds
from lego_serve.core.scheduling.controlnet_placement import Link
from lego_serve.deployment import adapter_roots, controlnets, may_be_remote, model_spec
from lego_serve.errors import ConfigError
from lego_serve.models.registry import ModelSpec
from lego_serve.places import data_folder, own_profiles, resolve_path
from lego_serve.serving.nodes.options import (
    AdapterOptions,
    ControlNetOptions,
    ControlNetPlan,
    LoraOptions,
    NodeOptions,
    NodePlan,
    Placement,
    app_name,
)

log = logging.getLogger("lego_serve")


def adapter_options(settings: config.Settings, model: str) -> AdapterOptions | None:
    """How a replica of a model gets adapters; None without any."""
    adapters = settings.models[model].adapters
    if adapters is None or not adapter_roots(settings, model):
        return None
    return AdapterOptions(app_name(settings.server.name, model, "adapters"), adapters.replica_cache_bytes)


def lora_plan(settings: config.Settings, spec: ModelSpec, state: Path) -> NodePlan:
    """The LoRA node of a model; ``state`` is a folder for what outlives it."""
    adapters = settings.models[spec.name].adapters
    assert adapters is not None
    options = LoraOptions(
        roots=_usable_roots(settings, spec.name),
        cache_bytes=adapters.cache_bytes,
        registry_limit=adapters.registry_limit,
        profiles=None if adapters.profiles is None else resolve_path(settings, adapters.profiles),
        early_start=adapters.early_start,
        registry=(
            state / f"{spec.name}.adapters.json"
            if adapters.registry is None
            else resolve_path(settings, adapters.registry)
        ),
        own_profiles=own_profiles(settings),
    )
    # One replica: what is registered at run time has one owner.
    return NodePlan(spec, "adapters", options, ReplicaBounds(1, 1), adapters.cpus, 0, placement_of(adapters))


def _usable_roots(settings: config.Settings, model: str) -> tuple[Path, ...]:
    """A model's roots, with those in the server's own folder made; without what cannot be, as long as any is left.

    Raises ConfigError.
    """
    usable = []
    for root in adapter_roots(settings, model):
        if root.is_relative_to(data_folder(settings)):
            try:
                root.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                log.warning("no adapters from %s, which cannot be made: %s; see `server.data`", root, error.strerror)
                continue
        usable.append(root)
    if not usable:
        raise ConfigError(f"`models.{model}.adapters.roots`: none of them can be made")
    return tuple(usable)


def controlnet_plans(settings: config.Settings, model: str) -> tuple[ControlNetPlan, ...]:
    """How a backbone reaches each ControlNet of its model."""
    return tuple(
        ControlNetPlan(
            spec=controlnet_spec(settings, model, name, net),
            placement=net.placement if may_be_remote(net) else "colocated",
            app=app_name(settings.server.name, name, "controlnet"),
            link=None if net.link is None else Link(net.link.bytes_per_s, net.link.latency_s),
            stream_blocks=net.stream_blocks,
            timeout_s=net.timeout_s,
        )
        for name, net in controlnets(settings.models[model]).items()
    )


def controlnet_spec(settings: config.Settings, model: str, name: str, net: config.ControlNet) -> ModelSpec:
    """How a ControlNet is loaded: on its model's device and in its dtype."""
    base = model_spec(settings, model)
    return replace(base, name=name, path=net.path, revision=None)


def controlnet_plan(settings: config.Settings, model: str, name: str, net: config.ControlNet) -> NodePlan:
    """The deployment of a ControlNet that may run elsewhere than in a backbone."""
    options = ControlNetOptions(model_spec(settings, model))
    return plan_of(controlnet_spec(settings, model, name, net), "controlnet", options, net.node)


def plan_of(spec: ModelSpec, component: str, options: NodeOptions, node: config.Node | config.SideNode) -> NodePlan:
    """A node with the replicas and resources that its section asks for."""
    bounds = ReplicaBounds(node.replicas.min, node.replicas.max)
    return NodePlan(spec, component, options, bounds, node.cpus, node.gpus, placement_of(node))


def placement_of(place: Placed) -> Placement:
    """Where replicas may run, as a section says."""
    return Placement(place.labels, place.memory_bytes, place.max_per_node)
