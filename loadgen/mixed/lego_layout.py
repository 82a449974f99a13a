"""The server's configuration with another number of backbone replicas, as a file beside the results."""

from pathlib import Path
from typing import Any

import yaml


def with_backbones(config: Path, model: str, count: int, folder: Path) -> Path:
    """Write the derived configuration into ``folder``; its relative workflow files still mean what they did."""
    settings = yaml.safe_load(config.read_text())
    nodes = settings["models"][model].setdefault("nodes", {})
    nodes.setdefault("backbone", {})["replicas"] = {"min": count, "max": count}
    absolute_workflows(settings, config.parent)
    folder.mkdir(parents=True, exist_ok=True)
    derived = folder / f"{config.stem}-{count}-backbones.yaml"
    derived.write_text(yaml.safe_dump(settings, sort_keys=False))
    return derived


def absolute_workflows(settings: dict[str, Any], folder: Path) -> None:
    """Name a configuration's workflow files from the root, for a copy of it in another folder."""
    if "workflows" in settings:
        settings["workflows"] = [_absolute(name, folder) for name in settings["workflows"]]


def _absolute(name: str, folder: Path) -> str:
    """A built-in workflow has no file and keeps its name."""
    path = folder / name
    return str(path.absolute()) if path.is_file() else name
