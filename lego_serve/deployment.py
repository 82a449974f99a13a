"""From a configuration and its workflows to the deployments they need."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lego_serve import config
from lego_serve.core.editing.templates import pin_room
from lego_serve.core.tiers.book import TierBook
from lego_serve.core.workflow.graph import BACKBONE, Workflow, tier_of
from lego_serve.core.workflow.tiers import checkpoint_nodes
from lego_serve.errors import ConfigError
from lego_serve.models.registry import BUILT_IN, ModelSpec, built_in_folder
from lego_serve.models.tier_files import read_book
from lego_serve.places import resolve_path
from lego_serve.serving.nodes.options import (
    WORKER_POOL,
    WORKERS,
    NodePlace,
    app_name,
)

if TYPE_CHECKING:
    from lego_serve.gateway.settings import TemplateSettings


log = logging.getLogger("lego_serve")


def needed_nodes(settings: config.Settings, workflows: Mapping[str, Workflow]) -> dict[tuple[str, str], NodePlace]:
    """The nodes the workflows need, shared among them: (model, component) to where its calls go.

    A tier with a checkpoint has a backbone of its own.  Raises ConfigError for tiers that cannot be read.
    """
    denoising = {n.model for w in workflows.values() for n in w.nodes.values() if n.component == BACKBONE}
    books = {model: tier_book(settings, model) for model in denoising}
    nodes = [node for w in workflows.values() for node in (*w.nodes.values(), *checkpoint_nodes(w, books))]
    return {key: needed_place(settings, *key) for key in sorted({(node.model, node.component) for node in nodes})}


def scaled_apps(places: Mapping[tuple[str, str], NodePlace]) -> dict[tuple[str, str], str]:
    """The applications that scale, by (model, component): the shared workers count as one."""
    return {(WORKER_POOL, WORKERS) if place.hosted else key: place.app for key, place in places.items()}


def needed_place(settings: config.Settings, model: str, component: str) -> NodePlace:
    """Where the calls to a node go."""
    if is_shared(settings, model, component):
        return NodePlace(app_name(settings.server.name, WORKER_POOL, WORKERS), f"{model}.{component}")
    return NodePlace(app_name(settings.server.name, model, component))


def is_shared(settings: config.Settings, model: str, component: str) -> bool:
    """Whether a node is on the shared workers; a LoRA node, which owns what is registered, never is."""
    node = getattr(settings.models[model].nodes, BACKBONE if tier_of(component) else component, None)
    return node is not None and node.placement == "shared"


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


def planned_applications(settings: config.Settings, workflows: Mapping[str, Workflow]) -> dict[str, tuple[str, ...]]:
    """The names of all deployments, each with the models in the configuration that it belongs to."""
    apps: dict[str, tuple[str, ...]] = {}
    for (model, _), place in needed_nodes(settings, workflows).items():
        apps[place.app] = tuple(dict.fromkeys((*apps.get(place.app, ()), model)))
    server, nets = settings.server.name, remote_controlnets(settings, workflows)
    return apps | {app_name(server, name, "controlnet"): (model,) for model, name, _ in nets}


def remote_controlnets(
    settings: config.Settings, workflows: Mapping[str, Workflow]
) -> list[tuple[str, str, config.ControlNet]]:
    """Return the ControlNets that may have a deployment of their own: model, name and section."""
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

    Without those on other checkpoints where it is to have none.  Raises ConfigError for a file that cannot be read or
    is of another model's weights, and for a tier it lacks.
    """
    chosen = settings.models[model]
    file = None if chosen.tiers is None else resolve_path(settings, chosen.tiers)
    try:
        book = read_book(chosen.path, file, chosen.tier)
        return book if chosen.checkpoint_tiers else book.without_checkpoints()
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
