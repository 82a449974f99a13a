"""Prints Ray Serve's declarative configuration of the nodes that a lego_serve configuration needs."""

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path

import yaml

from lego_serve import config
from lego_serve.core.workflow.graph import Workflow
from lego_serve.deployment import planned_applications
from lego_serve.errors import ConfigError
from lego_serve.served_workflows import configured

BUILDER = "lego_serve.cluster.builder:build"


def on_a_cluster(path: Path, *, has_keys_file: bool = False) -> tuple[config.Settings, dict[str, Workflow]]:
    """A configuration of parts that are started one by one, and its workflows.  Raises ConfigError."""
    settings, workflows = configured(path, has_keys_file=has_keys_file)
    if settings.server.ray_address is not None:
        message = "`server.ray_address` is for `lego-serve serve`, which starts all parts itself; leave it out here"
        raise ConfigError(f"{path}: {message}")
    return settings, workflows


def serve_config(path: Path, at: Path | None = None) -> str:
    """Return Serve's configuration, as YAML; ``at`` is where its nodes will find the file.  Raises ConfigError."""
    settings, workflows = on_a_cluster(path)
    return yaml.safe_dump(serve_document(settings, workflows, at or path.absolute()), sort_keys=False)


def serve_document(settings: config.Settings, workflows: Mapping[str, Workflow], at: Path) -> dict[str, object]:
    """The same as values: one application without a route for each node, as ``lego-serve serve`` deploys them."""
    applications = [
        {
            "name": app,
            "route_prefix": None,
            "import_path": BUILDER,
            "args": {"config": str(at), "application": app, "digest": digest(settings, models)},
        }
        for app, models in planned_applications(settings, workflows).items()
    ]
    logging = {"enable_access_log": False, "log_level": "WARNING"}
    return {"proxy_location": "Disabled", "logging_config": logging, "applications": applications}


def digest(settings: config.Settings, models: Sequence[str]) -> str:
    """What changes with everything that the nodes of models are made of, so that Serve deploys them anew."""
    tenants = len({key.tenant for key in settings.keys})
    server = {"data": settings.server.data, "name": settings.server.name, "tenants": tenants}
    sections = [*(settings.models[model] for model in models), settings.templates, settings.workers]
    parts = [*(section.model_dump(mode="json") for section in sections), server]
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
