"""What KubeRay's webhook and controller would refuse or misunderstand, and what would hurt in operation."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from deploy.checks.tools import HERE, Manifest, named

NAME_LETTERS = 47
CRD = HERE.parents[1] / "shared" / "data" / "kuberay" / "ray.io_rayservices.yaml"
STOP_MARGIN_S = 25
DRAIN_S = 20  # a gateway's `server.drain_timeout_s`
FT_RIVALS = {"REDIS_PASSWORD", "RAY_REDIS_ADDRESS"}


def faults(manifests: Iterable[Manifest]) -> Iterator[str]:
    """Yield what is wrong with the manifests of one overlay."""
    known = list(manifests)
    maps = {each["metadata"]["name"] for each in known if each["kind"] == "ConfigMap"}
    for manifest in known:
        name, spec = named(manifest), manifest.get("spec", {})
        if manifest["kind"] == "PodDisruptionBudget" and not isinstance(spec.get("minAvailable"), int):
            yield f"{name}: minAvailable must be a number; a percentage fails, since RayClusters have no scale"
        if manifest["kind"] == "RayService":
            yield from (f"{name}: {fault}" for fault in _service(manifest))
            yield from (f"{name}: {fault}" for fault in _maps(spec["rayClusterConfig"], maps))


def image_faults(manifests: Iterable[Manifest]) -> Iterator[str]:
    """Yield what of an overlay would be pulled by a name that stands for an image, as those of the base do."""
    for manifest in manifests:
        if manifest["kind"] != "RayService":
            continue
        cluster = manifest["spec"]["rayClusterConfig"]
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            if ":" not in (image := _main(group)["image"]).rpartition("/")[2]:
                yield f"{group.get('groupName', 'head')}: {image} has no tag: no `images` of the overlay names it"


def _service(manifest: Manifest) -> Iterator[str]:
    spec = manifest["spec"]
    cluster, upgrade = spec["rayClusterConfig"], spec.get("upgradeStrategy", {})
    if len(manifest["metadata"]["name"]) > NAME_LETTERS:
        yield f"the name has more than {NAME_LETTERS} letters"
    if "mode" not in cluster.get("authOptions", {}):
        yield "authOptions without `mode` is no authentication"
    if upgrade.get("type") == "NewClusterWithIncrementalUpgrade":
        options = upgrade.get("clusterUpgradeOptions", {})
        if not cluster.get("enableInTreeAutoscaling"):
            yield "an incremental upgrade needs the autoscaler"
        if options.get("stepSizePercent", 0) > options.get("maxSurgePercent", 100):
            yield "stepSizePercent is more than maxSurgePercent"
    head, groups = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    if "serve" not in {port["name"] for port in _main(head)["ports"]}:
        yield "head: without a port `serve` the operator makes no Service"
    if head["rayStartParams"].get("num-cpus") != "0":
        yield "head: num-cpus must be 0, or nodes are placed there"
    for group in (head, *groups):
        name = group.get("groupName", "head")
        yield from (f"{name}: {fault}" for fault in _group(group))
        if "gcsFaultToleranceOptions" in cluster:
            rivals = FT_RIVALS & {each["name"] for each in _main(group).get("env", [])}
            if rivals or "redis-password" in group["rayStartParams"]:
                yield f"{name}: gcsFaultToleranceOptions and {', '.join(rivals) or 'redis-password'} exclude each other"
    yield from _ends(head, groups)
    for group in groups:
        if not group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]:
            yield f"{group['groupName']}: replicas must be between minReplicas and maxReplicas"
        if "readinessProbe" not in _main(group):
            yield f"{group['groupName']}: without its own readinessProbe it is never ready, since Serve's proxy is off"


def _group(group: Manifest) -> Iterator[str]:
    container, pod = _main(group), group["template"]["spec"]
    if wrong := {"labels", "resources"} & set(group["rayStartParams"]):
        yield f"rayStartParams cannot have {', '.join(sorted(wrong))}"
    if pod.get("restartPolicy", "Never") != "Never":
        yield "restartPolicy must be Never or unset"
    if not container.get("securityContext", {}).get("readOnlyRootFilesystem"):
        yield "the root must be read-only"
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    scratch = {volume["name"] for volume in pod["volumes"] if "emptyDir" in volume}
    if mounts.get("/tmp") not in scratch:
        yield "a read-only root needs an emptyDir on /tmp: Ray finds no temporary folder"
    sleep_s = _sleep_s(group)
    if pod.get("terminationGracePeriodSeconds", 30) < sleep_s + STOP_MARGIN_S:
        yield f"terminationGracePeriodSeconds must be at least {sleep_s + STOP_MARGIN_S}"
    for each in container.get("env", []):
        if any(word in each["name"].upper() for word in ("PASSWORD", "TOKEN", "SECRET")) and "value" in each:
            yield f"{each['name']}: secrets come by reference"


def _ends(head: Manifest, groups: list[Manifest]) -> Iterator[str]:
    """Who would end before the gateways, when all pods of a cluster are told to at once."""
    gateways = [_sleep_s(group) for group in groups if group["groupName"] == "gateway"]
    least_s = max(gateways, default=0) + DRAIN_S
    for group in (head, *(group for group in groups if group["groupName"] != "gateway")):
        if _sleep_s(group) < least_s:
            yield f"{group.get('groupName', 'head')}: its preStop must sleep {least_s} s, as long as gateways need"


def _sleep_s(group: Manifest) -> int:
    return int(_main(group).get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0))


def _maps(cluster: Manifest, maps: set[str]) -> Iterator[str]:
    """Names of ConfigMaps that nobody makes: the hash was not put there, so a change would restart nothing."""
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        for volume in group["template"]["spec"]["volumes"]:
            if "configMap" in volume and volume["configMap"]["name"] not in maps:
                yield f"no ConfigMap is called {volume['configMap']['name']}"


def _main(group: Manifest) -> Any:
    return group["template"]["spec"]["containers"][0]


def crd_faults(manifests: Iterable[Manifest], crd: Path = CRD) -> Iterator[str]:
    """Yield what KubeRay's own definition says of RayServices, where it is at hand; it comes with no package."""
    if not crd.exists():
        return
    from jsonschema import Draft202012Validator

    versions = yaml.load(crd.read_text(), Loader=yaml.CSafeLoader)["spec"]["versions"]
    schema = _strict(next(each for each in versions if each["name"] == "v1")["schema"]["openAPIV3Schema"])
    for manifest in manifests:
        if manifest["kind"] == "RayService":
            plain = json.loads(json.dumps(manifest))
            for error in Draft202012Validator(schema).iter_errors(plain):
                yield f"{named(manifest)}: {error.json_path}: {error.message[:200]}"


def _strict(schema: Any) -> Any:
    """A definition that refuses keys it does not know, as the API server does under strict validation."""
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _strict(value) for key, value in schema.items()}
    if made.get("x-kubernetes-int-or-string"):
        made.pop("anyOf", None)
        made.pop("type", None)
    properties = made.get("properties")
    is_whole = isinstance(properties, dict) and "apiVersion" in properties
    is_open = is_whole or "additionalProperties" in made or made.get("x-kubernetes-preserve-unknown-fields")
    if isinstance(properties, dict) and made.get("type") == "object" and not is_open:
        made["additionalProperties"] = False
    return made
