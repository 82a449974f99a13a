"""The nodes that a RayService is told to run: as our configuration has them, with known keys, and with a place."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel
from ray.serve.schema import ServeDeploySchema

from deploy import generate
from deploy.checks.tools import Manifest, named
from lego_serve.cluster.serve_config import on_a_cluster
from lego_serve.configuration.models import Placed
from lego_serve.core.placement.room import LabelRule


def stale_files(files: Mapping[Path, str]) -> Iterator[str]:
    """Yield files that are not what they are written from."""
    for path, text in files.items():
        if not path.exists() or path.read_text() != text:
            yield f"{path.relative_to(generate.HERE.parent)} is not current: run `make deploy-files`"


def faults(manifests: Iterable[Manifest], config: Path) -> Iterator[str]:
    """Yield what is wrong with the nodes of one overlay, whose configuration is at ``config``."""
    for manifest in manifests:
        if manifest["kind"] == "RayService":
            document = yaml.safe_load(manifest["spec"]["serveConfigV2"])
            yield from (f"{named(manifest)}: serveConfigV2: {fault}" for fault in serve_faults(document))
            groups = manifest["spec"]["rayClusterConfig"]["workerGroupSpecs"]
            yield from placeless(config, [group.get("labels", {}) for group in groups])


def serve_faults(document: Any) -> Iterator[str]:
    """Yield what Serve would refuse, and keys that it would pass over in silence."""
    if not document or not document.get("applications"):
        yield "no application: the service would never be ready"
        return
    try:
        ServeDeploySchema.model_validate(document)
    except ValueError as error:
        yield str(error).splitlines()[0]
    yield from _unknown_keys(document, ServeDeploySchema, "")


def _unknown_keys(value: Any, schema: Any, place: str) -> Iterator[str]:
    models = list(_models(schema))
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _unknown_keys(item, schema, f"{place}[{index}]")
    elif isinstance(value, dict) and models:
        fields = {name: field for model in models for name, field in model.model_fields.items()}
        for key, item in value.items():
            if key not in fields:
                yield f"unknown key {place}.{key}".replace(" .", " ")
            else:
                yield from _unknown_keys(item, fields[key].annotation, f"{place}.{key}")


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


def placeless(config: Path, groups: list[Mapping[str, str]]) -> Iterator[str]:
    """Yield nodes that ask for labels which no group of machines has."""
    settings, _ = on_a_cluster(config)
    for model, chosen in settings.models.items():
        sections: dict[str, Placed | None] = {
            name: getattr(chosen.nodes, name) for name in type(chosen.nodes).model_fields
        }
        sections["adapters"] = chosen.adapters
        for name, section in sections.items():
            if section is not None and not any(_fits(section.labels, group) for group in groups):
                wanted = ", ".join(f"{key}={rule}" for key, rule in section.labels.items())
                yield f"{config.parent.name}: no worker group has {wanted}, which `models.{model}` asks for its {name}"


def _fits(rules: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    return all(LabelRule.read(key, rule).holds(labels) for key, rule in rules.items())
