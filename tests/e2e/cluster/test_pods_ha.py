"""prod-ha's pods on this machine, with a model that a processor runs: what a second one of everything is worth."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.checks.tools import HERE, Manifest
from deploy.local.kubelet import RunningPod
from deploy.local.operator import LocalCluster, ask, local_cluster
from tests.support.cluster.pods import (
    BODY,
    IMAGES,
    KEY_DIGEST,
    ask_for_image,
    build_images,
    load,
    overlay_with,
    small,
    why_not,
)

LONG = BODY | {"num_inference_steps": 60, "size": "128x128"}
# prod-ha's server, stores and two classes of machines; its models need GPUs, and lego-tiny none.
MODELS = """
models:
  lego-tiny:
    path: builtin:lego-tiny
    max_sequence_length: 0
    nodes:
      text_encoder: {replicas: {min: 2, max: 2}, labels: {lego-class: large-gpu}, max_per_node: 1, cpus: 0.2}
      backbone: {replicas: {min: 2, max: 2}, labels: {lego-class: gpu}, max_per_node: 1, cpus: 0.5}
      vae: {replicas: {min: 2, max: 2}, labels: {lego-class: large-gpu}, max_per_node: 1, cpus: 0.2}
"""
SECRETS = {
    "lego-keys": {"keys.yaml": f"keys: [{{sha256: '{KEY_DIGEST}', tenant: dev, scope: admin}}]\n"},
    "lego-ray-token": {"auth_token": "for-this-test-only"},
    "lego-redis": {"password": "for-this-test-only"},
}
PORTS = {"operations": 8001}
pytestmark = [pytest.mark.ray, pytest.mark.long]
if (reason := why_not()) is not None:
    pytestmark.append(pytest.mark.skip(reason=reason))


def manifests(folder: Path) -> tuple[Manifest, ...]:
    """prod-ha as it is, but for the models and the memory of its pods."""
    config = (HERE / "kubernetes" / "overlays" / "prod-ha" / "config.yaml").read_text()
    return small(overlay_with(folder, "prod-ha", config.partition("models:")[0] + MODELS.lstrip()))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """A head, three gateway pods, two machines of each class, two stores; all are ready."""
    build_images()
    folder = tmp_path_factory.mktemp("ha")
    with local_cluster(manifests(folder), folder, IMAGES, SECRETS) as made:
        made.start_stores()
        made.wait("the stores", lambda: all(pod.is_ready for pod in made.pods.values()), 60)
        made.start_ray("lego-a")
        made.submit("lego-a")
        seconds = made.wait("all pods", lambda: all(pod.is_ready for pod in made.pods.values()), 600)
        tell(f"prod-ha: {len(made.pods)} pods, all ready {seconds:.0f} s after the nodes were submitted")
        yield made


def tell(line: str) -> None:
    """Say a figure, for docs/benchmarks/deployment.md."""
    sys.stdout.write(f"\n{line}\n")


def test_replicas_are_on_the_machines_that_the_configuration_names(cluster: LocalCluster) -> None:
    """Each node twice, on two machines of its class; every application runs."""
    assert set(cluster.applications("lego-a").values()) == {"RUNNING"}
    made = cluster.run_from("ingress", lambda: ask_for_image(cluster))
    assert made.status == 200, made.text
    [group] = {len(cluster.group(name)) for name in ("class-a", "class-b")}
    assert group == 2
    assert len(cluster.addresses("lego-gateway")) == 3


def test_a_second_replica_answers_soon_for_one_that_is_killed(cluster: LocalCluster) -> None:
    """At most 5 s more than without."""
    plain = cluster.run_from("ingress", lambda: ask_for_image(cluster, LONG))
    assert plain.status == 200, plain.text
    victim = cluster.group("class-a")[0]
    with load(cluster, clients=2, body=LONG) as clients:
        cluster.wait("requests in flight", lambda: in_flight(cluster) >= 2, 60)
        time.sleep(plain.seconds / 2)
        victim.container.kill()
        started = time.monotonic()
        cluster.wait("answers", lambda: len(clients.asked) >= 2, 120)
    hit = [each for each in clients.asked if each.sent_s < started < each.sent_s + each.seconds]
    most = max(each.seconds for each in hit)
    two_at_once = sorted(each.seconds for each in clients.asked)[0]
    tell(f"one of two backbone pods killed: {most:.1f} s at most, {plain.seconds:.1f} s alone; {clients.told()}")
    assert not clients.failed, clients.failed[0].text
    assert most <= max(2 * plain.seconds, two_at_once) + 5
    cluster.wait("the replacement", lambda: all(pod.is_ready for pod in cluster.group("class-a")), 120)


def in_flight(cluster: LocalCluster) -> float:
    """Jobs in flight in all gateways."""
    name, total = "lego_serve_requests_in_flight", 0.0
    for pod in cluster.group("gateway"):
        status, text = scrape(cluster, pod)
        total += sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name)) if status else 0
    return total


def scrape(cluster: LocalCluster, pod: RunningPod) -> tuple[int, str]:
    """A gateway pod's metrics, as Prometheus gets them."""
    found: tuple[int, str] = cluster.run_from("monitoring", lambda: ask(pod.place.address, 8001, "GET", "/metrics"))
    return found


def test_jobs_add_up_at_every_scrape_and_promtool_is_content(cluster: LocalCluster) -> None:
    """Accepted ones are those completed, failed, cancelled, expired, and in flight; under load, in every pod."""
    checks = 0
    with load(cluster, clients=3):
        end = time.monotonic() + 15
        while time.monotonic() < end:
            for pod in cluster.group("gateway"):
                status, text = scrape(cluster, pod)
                assert status == 200
                values = {line.split()[0]: float(line.split()[-1]) for line in text.splitlines() if line[:1] != "#"}
                ended = sum(value for name, value in values.items() if name.startswith("lego_serve_jobs_ended_total"))
                accepted = values.get("lego_serve_jobs_accepted_total", 0.0)
                assert accepted == ended + values["lego_serve_requests_in_flight"], text
                checks += 1
            time.sleep(0.1)
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    tell(f"jobs added up at {checks} scrapes of three gateway pods")


def test_the_shipped_rules_see_what_pod_monitors_select(cluster: LocalCluster, tmp_path: Path) -> None:
    """Prometheus, in a place of its own, with the rules as the component has them."""
    rules = next(each for each in cluster.manifests if each["kind"] == "PrometheusRule")
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules["spec"]))
    targets = [
        {"targets": [f"{pod.place.address}:{PORTS[endpoint['port']]}"]}
        for monitor in cluster.manifests
        if monitor["kind"] == "PodMonitor"
        for endpoint in monitor["spec"]["podMetricsEndpoints"]
        if endpoint["port"] in PORTS
        for pod in cluster.group("gateway")
    ]
    jobs = [{"job_name": "gateways", "scrape_interval": "1s", "static_configs": targets}]
    config = {"global": {"evaluation_interval": "1s"}, "rule_files": [str(tmp_path / "rules.yaml")]}
    (tmp_path / "prometheus.yml").write_text(json.dumps(config | {"scrape_configs": jobs}))
    place = cluster.places["monitoring"]
    words = ["nsenter", f"--net={place.path}", "prometheus", f"--config.file={tmp_path / 'prometheus.yml'}"]
    words += [f"--storage.tsdb.path={tmp_path / 'data'}", "--web.listen-address=127.0.0.1:9090"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log)

    def query(text: str) -> list[Any]:
        path = f"/api/v1/query?query={text}"
        status, answer = cluster.run_from("monitoring", lambda: ask("127.0.0.1", 9090, "GET", path))
        return list(json.loads(answer)["data"]["result"]) if status == 200 else []

    def is_seen() -> bool:
        return any(float(each["value"][1]) == 6 for each in query("sum(lego_serve_ready_gateways)"))

    try:
        cluster.wait("Prometheus", is_seen, 60)
        status, answer = cluster.run_from("monitoring", lambda: ask("127.0.0.1", 9090, "GET", "/api/v1/rules"))
        found = [rule for group in json.loads(answer)["data"]["groups"] for rule in group["rules"]]
        assert status == 200
        assert len(found) == sum(len(group["rules"]) for group in rules["spec"]["groups"])
        assert {rule["health"] for rule in found} <= {"ok", "unknown"}
        assert not [rule for rule in found if rule.get("state") == "firing"]
    finally:
        process.kill()
        process.wait()


def test_no_request_fails_while_the_head_is_away(cluster: LocalCluster) -> None:
    """For 12 s, with Redis under the GCS; the next head is another pod, with another address."""
    [head] = cluster.group("headgroup")
    cluster.replace_after_s["headgroup"] = 12.0
    with load(cluster) as clients:
        time.sleep(3)
        head.container.kill()
        cluster.wait("its end", lambda: head.is_over, 10)
        cluster.wait("the next", lambda: any(pod.is_ready for pod in cluster.group("headgroup")), 180)
        time.sleep(10)
    tell(f"head lost for 12 s: {clients.told()}")
    assert not clients.failed, clients.failed[0].text
    assert cluster.ended[-1][0] == head.name, cluster.ended


def test_a_link_that_is_down_for_seconds_is_waited_out_and_one_for_a_minute_costs_a_machine(
    cluster: LocalCluster,
) -> None:
    """8 s: nobody is lost. 60 s: the other machine answers; the one that was cut off ends and is replaced."""
    for seconds, settle_s in ((8, 10), (60, 40)):
        victim = cluster.group("class-a")[0]
        before = len(cluster.ended)
        with load(cluster) as clients:
            time.sleep(2)
            victim.place.set_link(is_up=False)
            time.sleep(seconds)
            if not victim.is_over:
                victim.place.set_link(is_up=True)
            time.sleep(settle_s)
        tell(
            f"link of a backbone pod down for {seconds} s: {clients.told()}; pods that ended: {cluster.ended[before:]}"
        )
        assert not clients.failed, clients.failed[0].text
        if seconds == 8:
            assert len(cluster.ended) == before
    cluster.wait("all pods", lambda: all(pod.is_ready for pod in cluster.group("class-a")), 120)
