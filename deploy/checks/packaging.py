"""compose.yaml and the Dockerfile."""

import re
from collections.abc import Iterator
from pathlib import Path

import yaml
from compose_spec import PyCompose

from deploy.checks.tools import HERE, complaint
from lego_serve.config import load
from lego_serve.errors import LegoError

COMPOSE = HERE / "compose.yaml"
DOCKERFILE = HERE.parent / "Dockerfile"


def compose_faults(path: Path = COMPOSE) -> Iterator[str]:
    """Yield what the specification refuses, and what it does not look at: names and files that are not there."""
    text = path.read_text()
    try:
        PyCompose.from_yaml(text).validate()
    except ValueError as error:
        yield f"{path.name}: {error}"
        return
    document = yaml.safe_load(text)
    services = document["services"]
    for name, service in services.items():
        yield from (
            f"{path.name}: {name} depends on {each}" for each in service.get("depends_on", ()) if each not in services
        )
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            if re.fullmatch(r"[a-z][a-z0-9_-]*", source) and source not in document["volumes"]:
                yield f"{path.name}: {name}: there is no volume {source}"
            if source.startswith(".") and not (path.parent / source).is_file():
                yield f"{path.name}: {name}: there is no file {source}"
        if "configs" in service:
            yield f"{path.name}: {name}: podman-compose passes `configs` over; mount the file as a volume"
        if not service.get("read_only"):
            yield f"{path.name}: {name}: the root must be read-only"
        for port in service.get("ports", ()):
            if not str(port).startswith("127.0.0.1:"):
                yield f"{path.name}: {name}: {port} is open to others"
    for name, each in document["secrets"].items():
        if not (path.parent / each["file"]).exists():
            yield f"{path.name}: secrets.{name}: there is no {each['file']}"


def server_faults(config: Path, keys: Path) -> Iterator[str]:
    """Yield what is wrong with the configuration of a server and its file of keys."""
    try:
        load(config, has_keys_file=False)
        if not yaml.safe_load(keys.read_text())["keys"]:
            yield f"{keys.name}: has no keys"
    except (LegoError, OSError, KeyError) as error:
        yield f"{config}: {error}"


def dockerfile_faults(path: Path = DOCKERFILE) -> Iterator[str]:
    """Yield what hadolint says."""
    yield from complaint("hadolint", path)
