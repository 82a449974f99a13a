"""Copies of a server's configuration with some values changed, written beside the results."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from loadgen.package import package_path

Settings = dict[str, Any]


def derive_config(config: Path, folder: Path, suffix: str, change: Callable[[Settings], None]) -> Path:
    """Write a changed copy into ``folder`` and return its path.

    ``change`` edits the settings in place.  Workflow files that the original names relative to itself are named by
    their absolute path, so that the copy finds them too.
    """
    settings: Settings = yaml.safe_load(config.read_text())
    if "workflows" in settings:
        settings["workflows"] = [_absolute(name, config.parent) for name in settings["workflows"]]
    change(settings)
    folder.mkdir(parents=True, exist_ok=True)
    derived = folder / f"{config.stem}-{suffix}.yaml"
    derived.write_text(yaml.safe_dump(settings, sort_keys=False))
    return derived


def with_backbones(config: Path, model: str, count: int | None, folder: Path) -> Path:
    """Derive a configuration with ``count`` backbone replicas; None returns the configuration itself."""
    if count is None:
        return config

    def change(settings: Settings) -> None:
        nodes = settings["models"][model].setdefault("nodes", {})
        nodes.setdefault("backbone", {})["replicas"] = {"min": count, "max": count}

    return derive_config(config, folder, f"{count}-backbones", change)


def with_workflows(config: Path, model: str, names: Sequence[str], folder: Path) -> Path:
    """Derive a configuration that also serves the model's own workflow by these names; none returns it itself."""
    if not names:
        return config
    own: Settings = yaml.safe_load((package_path("workflows") / f"{model}.yaml").read_text())
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{name}.yaml" for name in names]
    for name, file in zip(names, files, strict=True):
        file.write_text(yaml.safe_dump(own | {"metadata": own["metadata"] | {"name": name}}, sort_keys=False))

    def change(settings: Settings) -> None:
        settings["workflows"] = [model, *(str(file.absolute()) for file in files)]

    return derive_config(config, folder, f"{len(names)}-workflows", change)


def _absolute(name: str, folder: Path) -> str:
    """Return the absolute path of a workflow file; a built-in workflow has no file and keeps its name."""
    path = folder / name
    return str(path.absolute()) if path.is_file() else name
