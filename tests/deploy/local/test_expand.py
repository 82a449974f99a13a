"""Pods are KubeRay's: commands, environment, files and probes of each group, from the manifests as they are."""

import copy
from typing import Any

import pytest

from deploy.checks.tools import overlay
from deploy.local.expand import head_service, ray_pods, secrets_of, service_of, stores
from deploy.local.pods import Pod, Probe, size

SECRETS = {"lego-ray-token": {"auth_token": "t"}, "lego-redis": {"password": "p"}}


@pytest.fixture(scope="module")
def pods() -> dict[str, Pod]:
    """prod-ha's Ray pods, by name."""
    return {pod.name: pod for pod in ray_pods(service_of(overlay("prod-ha")), "lego-a", SECRETS)}


def test_each_group_has_its_pods(pods: dict[str, Pod]) -> None:
    """Head, three gateways, two machines of either class."""
    groups = [pod.group for pod in pods.values()]
    assert groups == ["headgroup", *["gateway"] * 3, *["class-a"] * 2, *["class-b"] * 2]


def test_the_head_runs_kuberays_command(pods: dict[str, Pod]) -> None:
    """With what it needs to find its state again, and the token."""
    head = pods["lego-a-head"]
    assert head.entrypoint == ("/bin/bash", "-c", "--")
    assert head.arguments == (
        "ulimit -n 65536; ray start --head --block --dashboard-agent-listen-port=52365 --dashboard-host=0.0.0.0 "
        "--memory=4294967296 --metrics-export-port=8080 --no-monitor --num-cpus=0 --object-store-memory=200000000 "
        "--redis-password=$REDIS_PASSWORD",
    )
    assert head.environment["RAY_REDIS_ADDRESS"] == "lego-gcs-redis:6379"
    assert head.environment["REDIS_PASSWORD"] == "p"
    assert head.environment["RAY_AUTH_TOKEN"] == "t"
    assert head.environment["RAY_external_storage_namespace"] == "lego-a"


def test_a_class_of_machines_has_its_labels_and_gpus(pods: dict[str, Pod]) -> None:
    """KubeRay counts GPUs in the limits."""
    command = pods["lego-a-class-b-1"].environment["KUBERAY_GEN_RAY_START_CMD"]
    assert command.startswith("ray start --address=lego-a-head-svc.lego.svc.cluster.local:6379 --block")
    assert "--labels=lego-class=large-gpu" in command
    assert "--num-gpus=1" in command
    assert "REDIS_PASSWORD" not in pods["lego-a-class-b-1"].environment
    assert pods["lego-a-class-b-1"].environment["FQ_RAY_IP"] == head_service("lego-a")


def test_a_gateway_keeps_its_own_command_and_probes(pods: dict[str, Pod]) -> None:
    """The annotation says so; ports are named."""
    gateway = pods["lego-a-gateway-0"]
    assert gateway.entrypoint == ("/bin/bash", "-ec")
    assert "lego-serve node" in gateway.arguments[0]
    assert gateway.probes["startup"] == Probe(8001, "/health/startup", period_s=1, timeout_s=3, failures=1800)
    assert (gateway.pre_stop_s, gateway.grace_s) == (10, 90)
    sources = {mount.path: mount.source for mount in gateway.mounts}
    assert sources["/tmp"] == "emptyDir/tmp"
    assert sources["/var/lib/lego-serve"] == "claim/lego-data"
    assert sources["/etc/lego-serve-keys"] == "secret/lego-keys"
    assert sources["/etc/lego-serve"].startswith("configMap/lego-config-")


def test_stores_take_their_password_by_reference() -> None:
    """In their arguments as Kubernetes fills them; each has a disk of its own."""
    gcs, jobs = stores(overlay("prod-ha"), SECRETS)
    assert gcs.arguments[-2:] == ("--requirepass", "p")
    assert {mount.source for mount in (*gcs.mounts, *jobs.mounts)} == {
        "claim/data-lego-gcs-redis-0",
        "claim/data-lego-jobs-redis-0",
    }


def test_secrets_of_an_overlay_are_decoded() -> None:
    """cpu-dev carries its own."""
    found = secrets_of(overlay("cpu-dev"))
    token = next(values for name, values in found.items() if name.startswith("lego-ray-token"))
    assert token == {"auth_token": "for-development-only"}


def test_a_secret_that_is_not_there_is_named() -> None:
    """A pod without its token would run without authentication."""
    manifest: Any = copy.deepcopy(service_of(overlay("prod-ha")))
    with pytest.raises(KeyError, match="lego-ray-token"):
        ray_pods(manifest, "lego-a", {})


@pytest.mark.parametrize(("quantity", "count"), [("512Mi", 2**29), ("2G", 2 * 10**9), ("7", 7), (7, 7)])
def test_quantities_are_kubernetes(quantity: str | int, count: int) -> None:
    """Powers of two and of ten."""
    assert size(quantity) == count


def test_a_quantity_that_is_none_is_refused() -> None:
    """With its text."""
    with pytest.raises(ValueError, match="12 GB"):
        size("12 GB")
