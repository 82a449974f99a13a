"""From a configuration and its workflows to the deployments they need."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lego_serve import config
from lego_serve.configuration.models import Placed
from lego_serve.core.editing.templates import pin_room
from lego_serve.core.scheduling.autoscaling import ReplicaBounds
from lego_serve.core.scheduling.controlnet_placement import Link
from lego_serve.core.tiers.book import TierBook
from lego_serve.core.workflow.graph import KINDS, Workflow
from lego_serve.errors import ConfigError
from lego_serve.models.registry import BUILT_IN, ModelSpec, built_in_folder
from lego_serve.models.tier_files import read_book
from lego_serve.places import data_folder, own_profiles, resolve_path
from lego_serve.serving.nodes.options import (
    AdapterOptions,
    BackboneOptions,
    ControlNetOptions,
    ControlNetPlan,
    LoraOptions,
    NodeOptions,
    NodePlan,
    Placement,
    TemplateOptions,
    TextEncoderOptions,
    VaeOptions,
    app_name,
)

if TYPE_CHECKING:
    from lego_serve.gateway.settings import TemplateSettings


log = logging.getLogger("lego_serve")


def needed_nodes(settings: config.Settings, workflows: Mapping[str, Workflow]) -> dict[tuple[str, str], str]:
    """The deployments the workflows need, shared among them: (model, component) to Serve application."""
    nodes = {(n.model, KINDS[n.kind].component) for w in workflows.values() for n in w.nodes.values()}
    return {key: app_name(settings.server.name, *key) for key in sorted(nodes)}


def missing_requirement(settings: config.Settings, workflow: Workflow) -> str | None:
    """What a workflow needs and the configuration does not have, in words; None where it has all."""
    for model in sorted(workflow.models - set(settings.models)):
        return f"model `{model}`, which `models` does not have"
    for node in workflow.nodes.values():
        if node.kind == "load_adapters" and not adapter_roots(settings, node.model):
            return f"adapters, which model `{node.model}` has none of"
        if node.kind == "encode_controls" and not controlnets(settings.models[node.model]):
            return f"ControlNets, which model `{node.model}` has none of"
    return None


def adapter_roots(settings: config.Settings, model: str) -> tuple[Path, ...]:
    """The folders with a model's adapters; a built-in one that does not come with this package is left out."""
    adapters = settings.models[model].adapters
    roots = () if adapters is None else adapters.roots
    found = (resolve_path(settings, root) for root in roots)
    return tuple(folder for root, folder in zip(roots, found, strict=True) if _is_there(root, folder))


def controlnets(model: config.Model) -> dict[str, config.ControlNet]:
    """The ControlNets of a model; a built-in one that does not come with this package is left out."""
    return {
        name: net
        for name, net in model.controlnets.items()
        if not net.path.startswith(BUILT_IN) or _is_there(net.path, built_in_folder(net.path))
    }


def node_plans(settings: config.Settings, workflows: Mapping[str, Workflow], state: Path) -> list[NodePlan]:
    """The deployments of the workflows' nodes, and of the ControlNets that may run elsewhere than in a backbone.

    ``state``: a folder for what outlives a node's process.
    """
    server = settings.server.name
    nodes = needed_nodes(settings, workflows)
    plans = [replace(_plan(settings, model, component, state), server=server) for model, component in nodes]
    nets = _remote_controlnets(settings, workflows)
    return plans + [replace(_controlnet_plan(settings, *net), server=server) for net in nets]


def planned_applications(settings: config.Settings, workflows: Mapping[str, Workflow]) -> dict[str, str]:
    """The names of the same deployments, each with the model in the configuration that it belongs to."""
    apps = {app: model for (model, _), app in needed_nodes(settings, workflows).items()}
    server, nets = settings.server.name, _remote_controlnets(settings, workflows)
    return apps | {app_name(server, name, "controlnet"): model for model, name, _ in nets}


def _remote_controlnets(
    settings: config.Settings, workflows: Mapping[str, Workflow]
) -> list[tuple[str, str, config.ControlNet]]:
    """The ControlNets that may have a deployment of their own: model, name and section."""
    used = {n.model for w in workflows.values() for n in w.nodes.values() if n.kind == "encode_controls"}
    return [
        (model, name, net)
        for model in sorted(used)
        for name, net in controlnets(settings.models[model]).items()
        if may_be_remote(net)
    ]


def may_be_remote(net: config.ControlNet) -> bool:
    """Whether a ControlNet has a deployment of its own; without a link to judge by, `auto` is colocated."""
    return net.placement == "remote" or (net.placement == "auto" and net.link is not None)


def _is_there(path: str, folder: Path) -> bool:
    return not path.startswith(BUILT_IN) or folder.is_dir()


def template_settings(settings: config.Settings, beside: Path, state: Path) -> "TemplateSettings":
    """Where gateways keep templates: below the configuration's folder, or else with the server's state."""
    from lego_serve.gateway.settings import TemplateSettings

    templates = settings.templates
    folder = state / "templates" if templates.folder is None else beside / Path(templates.folder).expanduser()
    budgets = {name: model.nodes.backbone.template_bytes for name, model in settings.models.items()}
    rooms = {name: tenant_pin_room(settings, name) for name in settings.models}
    return TemplateSettings(folder, templates.per_tenant, templates.tenant_bytes, budgets, rooms)


def pending_images(settings: config.Settings) -> int:
    """Return how many images each gateway may have pending."""
    chosen = settings.server.max_pending_images
    return 2 * settings.server.max_pending_jobs if chosen == "auto" else int(chosen)


def tenant_pin_room(settings: config.Settings, model: str) -> int:
    """Return the bytes one tenant may pin per replica of a model's backbone."""
    pinned_bytes, tenants = settings.templates.tenant_pinned_bytes, {key.tenant for key in settings.keys}
    budget = settings.models[model].nodes.backbone.template_bytes
    return pin_room(budget, len(tenants), None if pinned_bytes == "fair" else pinned_bytes)


def tier_book(settings: config.Settings, model: str) -> TierBook:
    """Return the tiers of a model: those of the file that it names, or of the one beside its weights.

    Raises ConfigError for a file that cannot be read or is of another model's weights, and for a tier it lacks.
    """
    chosen = settings.models[model]
    file = None if chosen.tiers is None else resolve_path(settings, chosen.tiers)
    try:
        return read_book(chosen.path, file, chosen.tier)
    except ValueError as error:
        raise ConfigError(f"`models.{model}`: {error}") from None


def model_spec(settings: config.Settings, model: str) -> ModelSpec:
    """Return a model's spec."""
    chosen = settings.models[model]
    return ModelSpec(
        name=model,
        path=chosen.path,
        family=chosen.family,
        revision=chosen.revision,
        dtype=chosen.dtype,
        device=chosen.device,
        max_sequence_length=chosen.max_sequence_length,
        fetch=chosen.fetch,
        linear=chosen.linear,
    )


def _plan(settings: config.Settings, model: str, component: str, state: Path) -> NodePlan:
    spec, nodes = model_spec(settings, model), settings.models[model].nodes
    match component:
        case "adapters":
            return _lora_plan(settings, spec, state)
        case "text_encoder":
            encoder = nodes.text_encoder
            options: NodeOptions = TextEncoderOptions(
                encoder.max_batch, encoder.cache_bytes, _adapter_options(settings, model)
            )
            return _node_plan(spec, component, options, encoder)
        case "vae":
            return _node_plan(spec, component, VaeOptions(nodes.vae.max_batch), nodes.vae)
        case "backbone":
            return _node_plan(spec, component, _backbone_options(settings, model), nodes.backbone)
    raise ValueError(f"no component {component}")


def _node_plan(spec: ModelSpec, component: str, options: NodeOptions, node: config.Node | config.SideNode) -> NodePlan:
    bounds = ReplicaBounds(node.replicas.min, node.replicas.max)
    return NodePlan(spec, component, options, bounds, node.cpus, node.gpus, _placement(node))


def _placement(place: Placed) -> Placement:
    return Placement(place.labels, place.memory_bytes, place.max_per_node)


def _backbone_options(settings: config.Settings, model: str) -> BackboneOptions:
    chosen = settings.models[model]
    node = chosen.nodes.backbone
    return BackboneOptions(
        lane_policy=node.lane_policy,
        max_step_s=None if node.max_step_s == "auto" else float(node.max_step_s),
        max_rows=None if node.max_rows == "auto" else int(node.max_rows),
        checkpoint_every_steps=node.checkpoint_every_steps,
        batch_invariant=node.batch_invariant,
        bucket_rows=node.bucket_rows,
        adapters=_adapter_options(settings, model),
        adapter_mode="grouped" if chosen.adapters is None else chosen.adapters.mode,
        controlnets=_controlnet_plans(settings, model),
        controlnet_bytes=chosen.controlnet_cache_bytes,
        tiers=tier_book(settings, model),
        templates=TemplateOptions(node.template_bytes, node.template_coding, tenant_pin_room(settings, model)),
    )


def _adapter_options(settings: config.Settings, model: str) -> AdapterOptions | None:
    adapters = settings.models[model].adapters
    if adapters is None or not adapter_roots(settings, model):
        return None
    return AdapterOptions(app_name(settings.server.name, model, "adapters"), adapters.replica_cache_bytes)


def _lora_plan(settings: config.Settings, spec: ModelSpec, state: Path) -> NodePlan:
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
    return NodePlan(spec, "adapters", options, ReplicaBounds(1, 1), adapters.cpus, 0, _placement(adapters))


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


def _controlnet_plans(settings: config.Settings, model: str) -> tuple[ControlNetPlan, ...]:
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


def _controlnet_plan(settings: config.Settings, model: str, name: str, net: config.ControlNet) -> NodePlan:
    options = ControlNetOptions(model_spec(settings, model))
    return _node_plan(controlnet_spec(settings, model, name, net), "controlnet", options, net.node)
