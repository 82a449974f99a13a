"""Which workflows a configuration serves."""

import socket
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from lego_serve import config
from lego_serve.core.workflow.compile import nearest
from lego_serve.core.workflow.graph import Workflow
from lego_serve.deployment import missing_requirement
from lego_serve.errors import ConfigError
from lego_serve.workflow_files import built_in_workflows, read_workflow


def configured(path: Path, *, has_keys_file: bool = True) -> tuple[config.Settings, dict[str, Workflow]]:
    """A configuration and the workflows it serves.  Raises ConfigError or WorkflowError, one line with the file."""
    settings = _named(config.load(path, has_keys_file=has_keys_file), path)
    try:
        return settings, load_workflows(settings, path.parent)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.message}") from None


def _named(settings: config.Settings, path: Path) -> config.Settings:
    """Settings with a name for a server that shares a Ray, the same at every start on this machine."""
    server = settings.server
    if server.ray_address is None or server.name is not None:
        return settings
    digest = sha256(f"{socket.gethostname()} {path.resolve()}".encode()).hexdigest()[:10]
    return settings.model_copy(update={"server": server.model_copy(update={"name": f"server-{digest}"})})


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
    for alias, name in settings.aliases.items():
        if alias in found:
            raise ConfigError(f"`aliases`: {alias} is the name of a workflow that is served")
        if name not in found:
            raise ConfigError(f"`aliases`: {alias} stands for `{name}`, which is not served{nearest(name, found)}")
    for name in settings.slo_s:
        if name not in found:
            raise ConfigError(f"`slo_s`: no workflow `{name}` is served{nearest(name, found)}")
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
