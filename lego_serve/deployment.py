"""From a configuration and its workflows to the deployments they need."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lego_serve import config
from lego_serve.core.editing.templates import pin_room
from lego_serve.core.workflow.compile import nearest
from lego_serve.core.workflow.graph import KINDS, Workflow
from lego_serve.errors import ConfigError
from lego_serve.models.registry import BUILT_IN, ModelSpec, built_in_folder
from lego_serve.workflow_files import built_in_workflows, read_workflow

if TYPE_CHECKING:
    from lego_serve.gateway.settings import TemplateSettings
    from lego_serve.serving.cluster.deploy import NodePlan


DATA = "data:"
log = logging.getLogger("lego_serve")


def configured(path: Path) -> tuple[config.Settings, dict[str, Workflow]]:
    """A configuration and the workflows it serves.  Raises ConfigError or WorkflowError, one line with the file."""
    settings = config.load(path)
    try:
        return settings, load_workflows(settings, path.parent)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.message}") from None


def load_workflows(settings: config.Settings, folder: Path) -> dict[str, Workflow]:
    """The workflows a configuration serves: those it names, or the built-in ones its models allow.

    Raises ConfigError or WorkflowError.
    """
    built_in = built_in_workflows()
    found: dict[str, Workflow] = {}
    if settings.workflows is None:
        found = {name: w for name, w in built_in.items() if missing_requirement(settings, w) is None}
    for name in settings.workflows or ():
        workflow = built_in[name] if name in built_in else _workflow_file(name, folder, built_in)
        if workflow.name in found:
            raise ConfigError(f"`workflows`: {name} is a second workflow of the name {workflow.name}")
        found[workflow.name] = workflow
    if not found:
        raise ConfigError("no built-in workflow goes with these `models`; name some under `workflows`")
    for workflow in found.values():
        if missing := missing_requirement(settings, workflow):
            raise ConfigError(f"workflow {workflow.name} needs {missing}")
    default = settings.default_workflow
    if default is not None and default not in found:
        raise ConfigError(f"`default_workflow`: no workflow `{default}` is served{nearest(default, found)}")
    return found


def _workflow_file(name: str, folder: Path, built_in: Mapping[str, Workflow]) -> Workflow:
    """The workflow of a file named in a configuration; a word that names no file was to be a built-in one's name."""
    path = folder / name
    if not path.exists():
        is_file = path.suffix in (".yaml", ".yml", ".py")
        missing = f"there is no file {path}" if is_file else f"no built-in workflow `{name}`{nearest(name, built_in)}"
        raise ConfigError(f"`workflows`: {missing}")
    return read_workflow(path)


def default_workflow(settings: config.Settings, workflows: Mapping[str, Workflow]) -> str:
    """What requests without a model get: what the file says, or the first by name, text to image before others."""

    def asks_more(name: str) -> bool:
        return any(given.type in ("image", "adapters", "controls", "edit") for given in workflows[name].inputs.values())

    return settings.default_workflow or min(workflows, key=lambda name: (asks_more(name), name))


def needed_nodes(settings: config.Settings, workflows: Mapping[str, Workflow]) -> dict[tuple[str, str], str]:
    """The deployments the workflows need, shared among them: (model, component) to Serve application."""
    nodes = {(n.model, KINDS[n.kind].component) for w in workflows.values() for n in w.nodes.values()}
    return {(model, component): f"{model}.{component}" for model, component in sorted(nodes)}


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


def resolve_path(settings: config.Settings, said: str) -> Path:
    """Where a path of a configuration leads: `builtin:` into this package, `data:` into the server's own folder."""
    if said.startswith(BUILT_IN):
        return built_in_folder(said)
    if said.startswith(DATA):
        return data_folder(settings) / said.removeprefix(DATA)
    return Path(said).expanduser()


def data_folder(settings: config.Settings) -> Path:
    """The folder for what a server keeps beyond its end.  Raises ConfigError where there is no home for a `~`."""
    try:
        return Path(settings.server.data).expanduser().absolute()
    except RuntimeError:
        raise ConfigError("`server.data`: this user has no home folder; name one in full") from None


def own_profiles(settings: config.Settings) -> Path:
    """The folder for profiles of adapters that came with the package."""
    return data_folder(settings) / "profiles"


def adapter_roots(settings: config.Settings, model: str) -> tuple[Path, ...]:
    """The folders with a model's adapters; a built-in one that does not come with this package is left out."""
    adapters = settings.models[model].adapters
    said = () if adapters is None else adapters.roots
    found = (resolve_path(settings, root) for root in said)
    return tuple(folder for root, folder in zip(said, found, strict=True) if _is_there(root, folder))


def controlnets(model: config.Model) -> dict[str, config.ControlNet]:
    """The ControlNets of a model; a built-in one that does not come with this package is left out."""
    return {
        name: net
        for name, net in model.controlnets.items()
        if not net.path.startswith(BUILT_IN) or _is_there(net.path, built_in_folder(net.path))
    }


def node_plans(settings: config.Settings, workflows: Mapping[str, Workflow], state: Path) -> list["NodePlan"]:
    """The deployments of the workflows' nodes, and of the ControlNets that may run elsewhere than in a backbone.

    ``state``: a folder for what outlives a node's process.
    """
    nodes = needed_nodes(settings, workflows)
    plans = [_plan(settings, model, component, state) for model, component in nodes]
    used = {n.model for w in workflows.values() for n in w.nodes.values() if n.kind == "encode_controls"}
    for model in sorted(used):
        for name, net in controlnets(settings.models[model]).items():
            if may_be_remote(net):
                plans.append(_controlnet_plan(settings, model, name, net))
    return plans


def may_be_remote(net: config.ControlNet) -> bool:
    """Whether a ControlNet has a deployment of its own; without a link to judge by, `auto` is colocated."""
    return net.placement == "remote" or (net.placement == "auto" and net.link is not None)


def _is_there(said: str, folder: Path) -> bool:
    return not said.startswith(BUILT_IN) or folder.is_dir()


def template_settings(settings: config.Settings, beside: Path, state: Path) -> "TemplateSettings":
    """Where gateways keep templates: below the configuration's folder, or else with the server's state."""
    from lego_serve.gateway.settings import TemplateSettings

    said = settings.templates
    folder = state / "templates" if said.folder is None else beside / Path(said.folder).expanduser()
    budgets = {name: model.nodes.backbone.template_bytes for name, model in settings.models.items()}
    rooms = {name: tenant_pin_room(settings, name) for name in settings.models}
    return TemplateSettings(folder, said.per_tenant, said.tenant_bytes, budgets, rooms)


def tenant_pin_room(settings: config.Settings, model: str) -> int:
    """What the pins of one tenant may take of each replica of a model's backbone."""
    said, tenants = settings.templates.tenant_pinned_bytes, {key.tenant for key in settings.keys}
    budget = settings.models[model].nodes.backbone.template_bytes
    return pin_room(budget, len(tenants), None if said == "fair" else said)


def model_spec(settings: config.Settings, model: str) -> ModelSpec:
    """How a model is loaded."""
    said = settings.models[model]
    return ModelSpec(
        model, said.path, said.family, said.revision, said.dtype, said.device, said.max_sequence_length, said.fetch
    )


def _plan(settings: config.Settings, model: str, component: str, state: Path) -> "NodePlan":
    from lego_serve.serving.cluster.deploy import NodePlan

    spec = model_spec(settings, model)
    if component == "adapters":
        return _patcher_plan(settings, spec, state)
    node: config.Node = getattr(settings.models[model].nodes, component)
    arguments: dict[str, object] = {"max_batch": node.max_batch}
    if isinstance(node, config.TextEncoderNode):
        arguments |= {"cache_bytes": node.cache_bytes} | _adapter_arguments(settings, model)
    if isinstance(node, config.BackboneNode):
        names = (
            "lane_policy", "max_step_s", "max_rows", "checkpoint_every_steps", "batch_invariant", "bucket_rows",
            "template_bytes", "template_coding",
        )  # fmt: skip
        arguments = {name: getattr(node, name) for name in names} | _adapter_arguments(settings, model)
        arguments |= {"tenant_pinned_bytes": tenant_pin_room(settings, model)}
        arguments |= {"controlnets": _control_plans(settings, model)}
        arguments |= {"controlnet_bytes": settings.models[model].controlnet_cache_bytes}
        adapters = settings.models[model].adapters
        arguments |= {"adapter_mode": "grouped" if adapters is None else adapters.mode}
    return NodePlan(spec, component, arguments, node.replicas.min, node.replicas.max, node.cpus, node.gpus)


def _adapter_arguments(settings: config.Settings, model: str) -> dict[str, object]:
    said = settings.models[model]
    if said.adapters is None or not adapter_roots(settings, model):
        return {}
    return {"adapters_app": f"{model}.adapters", "adapter_bytes": said.adapters.replica_cache_bytes}


def _patcher_plan(settings: config.Settings, spec: ModelSpec, state: Path) -> "NodePlan":
    from lego_serve.serving.cluster.deploy import NodePlan

    adapters = settings.models[spec.name].adapters
    assert adapters is not None
    registry = str(state / f"{spec.name}.adapters.json")
    arguments = {
        "roots": _usable_roots(settings, spec.name),
        "cache_bytes": adapters.cache_bytes,
        "registry_limit": adapters.registry_limit,
        "storage_s": adapters.storage_s,
        "profiles": None if adapters.profiles is None else str(resolve_path(settings, adapters.profiles)),
        "own_profiles": str(own_profiles(settings)),
        "early_start": adapters.early_start,
        "registry": registry if adapters.registry is None else str(resolve_path(settings, adapters.registry)),
    }
    # One replica: what is registered at run time has one owner.
    return NodePlan(spec, "adapters", arguments, 1, 1, adapters.cpus, 0)


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


def _control_plans(settings: config.Settings, model: str) -> tuple[object, ...]:
    from lego_serve.core.scheduling.controlnet_placement import Link
    from lego_serve.serving.nodes.controlnet_sources import ControlNetPlan

    return tuple(
        ControlNetPlan(
            controlnet_spec(settings, model, name, net),
            net.placement if may_be_remote(net) else "colocated",
            f"{name}.controlnet",
            None if net.link is None else Link(net.link.bytes_per_s, net.link.latency_s),
            net.stream_blocks,
            net.timeout_s,
            net.storage_s,
        )
        for name, net in controlnets(settings.models[model]).items()
    )


def controlnet_spec(settings: config.Settings, model: str, name: str, net: config.ControlNet) -> ModelSpec:
    """How a ControlNet is loaded: on its model's device and in its dtype."""
    base = model_spec(settings, model)
    return ModelSpec(name, net.path, base.family, None, base.dtype, base.device, base.max_sequence_length, base.fetch)


def _controlnet_plan(settings: config.Settings, model: str, name: str, net: config.ControlNet) -> "NodePlan":
    from lego_serve.serving.cluster.deploy import NodePlan

    arguments = {"base": model_spec(settings, model)}
    spec, node = controlnet_spec(settings, model, name, net), net.node
    return NodePlan(spec, "controlnet", arguments, node.replicas.min, node.replicas.max, node.cpus, node.gpus)
