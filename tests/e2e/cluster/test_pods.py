"""The manifests' own pods, from both images, in networks of this machine: parts are lost, and a version replaced."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.checks.tools import KUBERNETES
from deploy.local.network import Place
from deploy.local.operator import LocalCluster, ask, local_cluster, run_in
from tests.support.cluster.pods import (
    BODY,
    IMAGES,
    Asked,
    ask_for_image,
    build_images,
    image_bytes,
    load,
    overlay_with,
    resident_bytes,
    why_not,
)

MEGABYTE = 1_000_000
LONG = BODY | {"num_inference_steps": 100, "size": "128x128"}
CONFIG = (KUBERNETES / "overlays" / "cpu-dev" / "config.yaml").read_text()
NODES = ("text_encoder", "backbone", "vae", "adapters")
pytestmark = [pytest.mark.ray, pytest.mark.long]
if (reason := why_not()) is not None:
    pytestmark.append(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="module")
def images() -> None:
    """Both images and a store's, from the Dockerfiles as they are."""
    build_images()


@pytest.fixture(scope="module")
def cluster(images: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """cpu-dev as it is: a head, a gateway pod, one machine that computes, two stores; it answers."""
    folder = tmp_path_factory.mktemp("pods")
    with local_cluster(overlay_with(folder, "cpu-dev", CONFIG), folder, IMAGES) as made:
        made.start_stores()
        bring_up(made, "lego-a")
        yield made


def bring_up(cluster: LocalCluster, name: str) -> None:
    """Be the operator until the gateways of a Ray cluster are ready."""
    cluster.wait("the stores", lambda: all(pod.is_ready for pod in stores(cluster)), 60)
    cluster.start_ray(name)
    cluster.submit(name)
    seconds = cluster.wait("the gateways", lambda: all(pod.is_ready for pod in gateways(cluster, name)), 400)
    tell(f"{name}: {len(cluster.pods)} pods, gateways ready {seconds:.0f} s after the nodes were submitted")


def gateways(cluster: LocalCluster, name: str) -> list[Any]:
    """The gateway pods of a Ray cluster; one that ended has been replaced, or is to be."""
    own = [pod for pod in cluster.pods.values() if pod.pod.group == "gateway"]
    return [pod for pod in own if pod.pod.labels["ray.io/cluster"] == name]


def stores(cluster: LocalCluster) -> list[Any]:
    """Both Redis pods."""
    return [*cluster.group("lego-gcs-redis"), *cluster.group("lego-jobs-redis")]


def tell(line: str) -> None:
    """Say a figure, for docs/benchmarks/deployment.md."""
    sys.stdout.write(f"\n{line}\n")


def from_ingress(cluster: LocalCluster, work: Callable[[], Any]) -> Any:
    """Do something from where clients come from."""
    return cluster.run_from("ingress", work)


def test_images_are_small_and_hold_what_they_must(images: None) -> None:
    """The gateway's has no torch; both run as nobody and say how they are."""
    gateway, worker = image_bytes(IMAGES["lego-serve:gateway"]), image_bytes(IMAGES["lego-serve:worker"])
    tell(f"gateway image {gateway / MEGABYTE:.0f} MB, worker image {worker / MEGABYTE:.0f} MB")
    assert gateway <= 950 * MEGABYTE
    words = ["podman", "image", "inspect", "--format", "{{.User}} {{json .HealthCheck.Test}}"]
    for name in ("lego-serve:gateway", "lego-serve:worker"):
        told = subprocess.run([*words, IMAGES[name]], capture_output=True, text=True, check=True).stdout
        assert told.strip() == '10001:10001 ["CMD","lego-serve","health"]'


def test_an_image_is_made_and_nobody_else_gets_in(cluster: LocalCluster) -> None:
    """Policies are the kernel's here: a stranger reaches no port, a client only the API, Prometheus the metrics."""
    made = from_ingress(cluster, lambda: ask_for_image(cluster))
    assert made.status == 200, made.text
    job = from_ingress(cluster, lambda: ask_for_image(cluster, headers={"prefer": "respond-async, wait=60"}))
    assert (job.status, json.loads(job.text).get("status")) == (200, "completed"), job.text  # kept in the jobs' Redis
    [gateway], [head] = cluster.group("gateway"), cluster.group("headgroup")
    [worker] = cluster.group("class-a")
    places = (gateway.place.address, head.place.address, worker.place.address)

    def reached(place: str, address: str, port: int) -> bool:
        return cluster.run_from(place, lambda: ask(address, port, "GET", "/", timeout_s=1.0)[0] != 0)

    assert reached("ingress", gateway.place.address, 8000)
    for address in places:
        for port in (8000, 8001, 6379, 8265, 52365, 8080):
            assert not reached("stranger", address, port)
            assert not reached("ingress", address, port) or (address, port) == (gateway.place.address, 8000)
    assert reached("operator", head.place.address, 8265)
    assert not reached("operator", gateway.place.address, 8001)
    for store in stores(cluster):
        assert not reached("stranger", store.place.address, 6379)


def test_gateways_are_small(cluster: LocalCluster) -> None:
    """Each process, after requests."""
    [gateway] = cluster.group("gateway")
    words = ["podman", "top", gateway.container.name, "hpid", "args"]
    lines = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    pids = [int(line.split()[0]) for line in lines if "lego_serve.gateway_process" in line]
    sizes = [resident_bytes(pid) / MEGABYTE for pid in pids]
    tell(f"gateway processes: {', '.join(f'{size:.0f} MB' for size in sizes)}")
    assert len(pids) == 2
    assert max(sizes) <= 150


def test_a_request_in_flight_outlives_the_only_machine_that_computes(cluster: LocalCluster) -> None:
    """Its replacement answers, with the same bits."""
    before = from_ingress(cluster, lambda: ask_for_image(cluster, LONG))
    assert before.status == 200, before.text
    [worker] = cluster.group("class-a")

    with load(cluster, clients=1, body=LONG) as flying:
        cluster.wait("a request in flight", lambda: in_flight(cluster) >= 1, 30)
        worker.container.kill()
        cluster.wait("its end", lambda: len(flying.asked) > 0, 280)
        flying.stop()
    tell(f"only worker pod killed: {flying.told()}; without that {before.seconds:.1f} s")
    assert not flying.failed, flying.failed[0].text + cluster.logs()
    assert image_of(flying.asked[0]) == image_of(before)


def in_flight(cluster: LocalCluster) -> float:
    """Jobs in flight, by the metrics of each gateway pod; read in the pod itself: cpu-dev lets no monitoring in."""
    return sum(metric(pod.place, "lego_serve_requests_in_flight") for pod in cluster.group("gateway"))


def metric(place: Place, name: str) -> float:
    """The sum of a metric's values at the gateways of a pod."""
    status, text = run_in(place, lambda: ask(place.address, 8001, "GET", "/metrics"))
    assert status == 200, text
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))


def image_of(asked: Asked) -> str:
    """The image of an answer, as it was sent."""
    return str(json.loads(asked.text)["data"][0]["b64_json"])


def test_a_killed_gateway_pod_is_replaced_within_seconds(cluster: LocalCluster) -> None:
    """Counted from its end to the readiness of the next, by the manifest's probes."""
    [gateway] = cluster.group("gateway")
    gateway.container.kill()
    started = time.monotonic()
    cluster.wait("its end", lambda: gateway.is_over, 10)
    cluster.wait("the next", lambda: bool(cluster.addresses("lego-gateway")), 90)
    seconds = time.monotonic() - started
    tell(f"killed gateway pod: replaced and ready after {seconds:.1f} s, of which 2 s until it was made anew")
    assert from_ingress(cluster, lambda: ask_for_image(cluster)).status == 200
    assert seconds <= 10


def test_stores_that_are_killed_cost_no_request(cluster: LocalCluster) -> None:
    """That of the GCS, and that of jobs: a plain request needs neither while it is away."""
    with load(cluster) as clients:
        time.sleep(2)
        for store in stores(cluster):
            store.container.kill()
        cluster.wait(
            "the stores", lambda: all(pod.is_ready for pod in stores(cluster)) and len(stores(cluster)) == 2, 60
        )
        time.sleep(8)
    tell(f"both stores killed: {clients.told()}")
    assert not clients.failed, clients.failed[0].text + cluster.logs()


def test_a_new_version_is_rolled_out_under_load(cluster: LocalCluster, tmp_path: Path) -> None:
    """A second Ray cluster beside the first, as KubeRay makes it; the first ends with all its pods at once."""
    with load(cluster) as clients:
        cluster.apply(overlay_with(tmp_path, "cpu-dev", CONFIG.replace("cpus: 0.5", "cpus: 0.6")))
        bring_up(cluster, "lego-b")
        cluster.wait("the nodes", lambda: set(cluster.applications("lego-b").values()) == {"RUNNING"}, 120)
        before = len(clients.asked)
        cluster.delete_ray("lego-a")
        time.sleep(5)
    tell(f"new version rolled out: {clients.told()}; {len(clients.asked) - before} from when the first was deleted")
    assert not clients.failed, f"{clients.failed[0]}{cluster.logs()}"
    assert {pod.pod.labels["ray.io/cluster"] for pod in cluster.group("gateway")} == {"lego-b"}
