"""The pods that KubeRay 1.7 makes of a RayService, and Kubernetes of a StatefulSet."""

import base64
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from deploy.checks.tools import Manifest
from deploy.local.pods import Mount, Pod, Secrets, pod, size

PORT = 6379
NAMESPACE = "lego"
INJECTED = {  # into every Ray container, unless the manifest has it
    "RAY_PORT": str(PORT),
    "RAY_USAGE_STATS_KUBERAY_IN_USE": "1",
    "RAY_DASHBOARD_ENABLE_K8S_DISK_USAGE": "1",
    "RAY_TIMEOUT_MS_TASK_WAIT_FOR_DEATH_INFO": "0",
    "RAY_GCS_SERVER_REQUEST_TIMEOUT_SECONDS": "5",
    "RAY_SERVE_KV_TIMEOUT_S": "5",
}


def secrets_of(manifests: Iterable[Manifest]) -> Secrets:
    """The secrets that manifests carry themselves, decoded."""
    return {
        each["metadata"]["name"]: {key: base64.b64decode(value).decode() for key, value in each["data"].items()}
        for each in manifests
        if each["kind"] == "Secret"
    }


def service_of(manifests: Iterable[Manifest]) -> Manifest:
    """The one RayService."""
    return next(each for each in manifests if each["kind"] == "RayService")


def head_service(cluster: str) -> str:
    """The name under which a cluster's pods find its head."""
    return f"{cluster}-head-svc.{NAMESPACE}.svc.cluster.local"


def stores(manifests: Iterable[Manifest], secrets: Secrets) -> list[Pod]:
    """The pods of StatefulSets."""
    return [
        pod(f"{each['metadata']['name']}-{index}", each["spec"]["template"], secrets)
        for each in manifests
        if each["kind"] == "StatefulSet"
        for index in range(each["spec"]["replicas"])
    ]


def ray_pods(service: Manifest, cluster: str, secrets: Secrets) -> list[Pod]:
    """The head first, then each group's pods."""
    spec = service["spec"]["rayClusterConfig"]
    made = [_ray_pod(spec, spec["headGroupSpec"], cluster, f"{cluster}-head", secrets)]
    for group in spec["workerGroupSpecs"]:
        for index in range(group["replicas"]):
            made.append(_ray_pod(spec, group, cluster, f"{cluster}-{group['groupName']}-{index}", secrets))
    return made


def _ray_pod(spec: Mapping[str, Any], group: Mapping[str, Any], cluster: str, name: str, secrets: Secrets) -> Pod:
    is_head = "groupName" not in group
    template = group["template"]
    plain = pod(name, template, secrets)
    command = start_command(spec, group, cluster)
    own = template["metadata"].get("annotations", {}).get("ray.io/overwrite-container-cmd") == "true"
    labels = {
        "ray.io/is-ray-node": "yes",
        "ray.io/cluster": cluster,
        "ray.io/node-type": "head" if is_head else "worker",
        "ray.io/group": "headgroup" if is_head else group["groupName"],
    }
    given = {**dict(_injected(spec, is_head, cluster, name, labels, secrets)), **plain.environment}
    return replace(
        plain,
        labels={**plain.labels, **labels},
        entrypoint=plain.entrypoint if own else ("/bin/bash", "-c", "--"),
        arguments=plain.arguments if own else (f"ulimit -n 65536; {command}",),
        environment=given | {"KUBERAY_GEN_RAY_START_CMD": command},
        mounts=(*plain.mounts, *((Mount("/tmp/ray", "emptyDir/ray-logs"),) if is_head and _scales(spec) else ())),
        shared_memory_bytes=plain.memory_bytes,
    )


def start_command(spec: Mapping[str, Any], group: Mapping[str, Any], cluster: str) -> str:
    """KubeRay's `ray start` of a group, from its parameters and the limits of its container."""
    is_head = "groupName" not in group
    limits = group["template"]["spec"]["containers"][0]["resources"].get("limits", {})
    words = {"dashboard-agent-listen-port": "52365", "metrics-export-port": "8080", "block": "true"}
    if is_head:
        words |= {"dashboard-host": "0.0.0.0"}
        words |= {"no-monitor": "true"} if _scales(spec) else {}
        words |= {"redis-password": "$REDIS_PASSWORD"} if "gcsFaultToleranceOptions" in spec else {}
    else:
        words |= {"address": f"{head_service(cluster)}:{PORT}"}
    if "memory" in limits:
        words["memory"] = str(size(limits["memory"]))
    gpus = next((count for name, count in limits.items() if name.endswith("gpu")), None)
    if gpus is not None:
        words["num-gpus"] = str(gpus)
    if group.get("labels"):
        words["labels"] = ",".join(f"{key}={value}" for key, value in group["labels"].items())
    words |= group["rayStartParams"]
    options = [f"--{key}" if value == "true" else f"--{key}={value}" for key, value in sorted(words.items())]
    return " ".join(["ray start", *(["--head"] if is_head else []), *options])


def _scales(spec: Mapping[str, Any]) -> bool:
    return bool(spec.get("enableInTreeAutoscaling"))


def _injected(
    spec: Mapping[str, Any], is_head: bool, cluster: str, name: str, labels: Mapping[str, str], secrets: Secrets
) -> Iterator[tuple[str, str]]:
    yield from INJECTED.items()
    address = "127.0.0.1" if is_head else head_service(cluster)
    yield "RAY_IP", address.partition(".")[0] if not is_head else address
    yield "FQ_RAY_IP", address
    yield "RAY_ADDRESS", f"{address}:{PORT}"
    yield "RAY_CLUSTER_NAME", cluster
    yield "RAY_CLOUD_INSTANCE_ID", name
    yield "RAY_NODE_TYPE_NAME", labels["ray.io/group"]
    authentication = spec.get("authOptions", {})
    if authentication.get("mode") == "token":
        yield "RAY_AUTH_MODE", "token"
        yield "RAY_AUTH_TOKEN", secrets[authentication["secretName"]]["auth_token"]
    if is_head and _scales(spec):
        yield "RAY_ENABLE_AUTOSCALER_V2", "true"
    store = spec.get("gcsFaultToleranceOptions")
    if store is not None and is_head:
        reference = store["redisPassword"]["valueFrom"]["secretKeyRef"]
        yield "RAY_REDIS_ADDRESS", store["redisAddress"]
        yield "REDIS_PASSWORD", secrets[reference["name"]][reference["key"]]
        yield "RAY_external_storage_namespace", cluster
    elif store is not None:
        yield "RAY_gcs_rpc_server_reconnect_timeout_s", "600"
