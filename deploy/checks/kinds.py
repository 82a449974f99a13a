"""Manifests by their kinds: Kubernetes' own against its schemas, all others against what we use of them."""

from collections.abc import Iterable, Iterator
from typing import Any

import kubernetes_validate
from jsonschema import Draft202012Validator

from deploy.checks.tools import Manifest, named
from deploy.schemas import CUSTOM

VERSION = "1.37"


def faults(manifests: Iterable[Manifest]) -> Iterator[str]:
    """Yield what is wrong with manifests; none passes unchecked."""
    for manifest in manifests:
        key = f"{manifest['apiVersion']}/{manifest['kind']}"
        if key in CUSTOM:
            yield from _custom(manifest, CUSTOM[key])
        else:
            yield from _native(manifest, named(manifest))
        for place, template in _pod_templates(manifest):
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"} | template.get("metadata", {})}
            yield from _native(pod | {"spec": template["spec"]}, f"{named(manifest)} {place}")


def _native(manifest: Manifest, name: str) -> Iterator[str]:
    try:
        kubernetes_validate.validate(dict(manifest), VERSION, strict=True)
    except kubernetes_validate.ValidationError as error:
        yield f"{name}: {'.'.join(str(part) for part in error.path)}: {error.message}"
    except kubernetes_validate.SchemaNotFoundError:
        yield f"{name}: nothing knows {manifest['apiVersion']}"


def _custom(manifest: Manifest, schema: dict[str, Any]) -> Iterator[str]:
    for error in Draft202012Validator(schema).iter_errors(manifest):
        yield f"{named(manifest)}: {error.json_path}: {error.message}"


def _pod_templates(manifest: Manifest) -> Iterator[tuple[str, Any]]:
    if manifest["kind"] == "RayService":
        cluster = manifest["spec"]["rayClusterConfig"]
        yield "head", cluster["headGroupSpec"]["template"]
        for group in cluster["workerGroupSpecs"]:
            yield group["groupName"], group["template"]
