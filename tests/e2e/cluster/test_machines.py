"""A server on four machines, started part by part with the commands of docs/deployment.md; parts of it are lost."""

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster.namespaces import why_not
from tests.support.cluster.nodes import Cluster, cluster_of

SETTINGS = """
server: {{host: 0.0.0.0, port: 8000, operations_port: 8001, data: {data}}}
keys_file: keys.yaml
jobs: {{store: none}}
workflows: [lego-tiny]
models:
  lego-tiny:
    path: builtin:lego-tiny
    max_sequence_length: 0
    nodes:
      text_encoder: {{labels: {{lego-class: cpu}}, cpus: 0.1}}
      backbone: {{labels: {{lego-class: cpu}}, cpus: 0.5}}
      vae: {{labels: {{lego-class: cpu}}, cpus: 0.1}}
"""
GATEWAY = ("--num-cpus=0",)
WORKER = ("--num-cpus=2", "--labels=lego-class=cpu")
pytestmark = [pytest.mark.ray, pytest.mark.long]
if (reason := why_not()) is not None:
    pytestmark.append(pytest.mark.skip(reason=reason))


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A head, a machine for a gateway and two more, on which nothing runs yet."""
    with cluster_of(4, tmp_path, SETTINGS) as made:
        made.gateway = made.hosts[1]
        yield made


def test_a_request_survives_the_loss_of_the_only_machine_that_computes(cluster: Cluster) -> None:
    """The gateway answers health checks before all else; the request in flight is answered by the replacement."""
    first, second = cluster.hosts[2:]
    cluster.start_head("--num-cpus=0")
    cluster.wait_for_nodes(1)
    cluster.start_node(cluster.gateway, *GATEWAY, gateways=True)
    cluster.wait("the gateway's health", lambda: cluster.ask("/health/live", port=8001)[0] == 200, 120)
    assert cluster.ask("/health/ready", port=8001)[0] == 503
    cluster.wait_for_nodes(2)
    cluster.start_node(first, *WORKER)
    cluster.wait_for_nodes(3)
    cluster.submit()
    cluster.wait_until_ready()
    body = {"prompt": "a red circle", "num_inference_steps": 100, "seed": 1, "size": "128x128"}
    status, before = cluster.ask("/v1/images/generations", body)
    assert status == 200, before
    assert cluster.ask("/metrics")[0] == 404
    assert "lego_serve_jobs_accepted_total 1.0" in cluster.ask("/metrics", port=8001)[1]
    flying = cluster.fly(body)
    cluster.wait("the second job", lambda: "requests_in_flight 1.0" in cluster.ask("/metrics", port=8001)[1], 30)
    cluster.kill(first)
    cluster.start_node(second, *WORKER)
    cluster.wait_for_nodes(3)
    text, _, status_word = flying.communicate(timeout=300)[0].rpartition("\n")
    assert status_word == "200", text + cluster.logs()
    assert json.loads(text)["data"][0]["b64_json"] == json.loads(before)["data"][0]["b64_json"]  # the same bits
    process = cluster.running[cluster.gateway.name]
    inner = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True).stdout.split()
    subprocess.run(["nsenter", "-t", inner[0], "-p", "-m", "kill", "-TERM", "1"], check=True)
    assert process.wait(60) == 0


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="needs redis-server")
def test_no_request_fails_while_the_head_is_away_or_a_link_is_down_for_seconds(cluster: Cluster) -> None:
    """With Redis under the head; 12 s without it, and 8 s without the machine that computes."""
    worker, store = cluster.hosts[2:]
    redis = ["--protected-mode", "no", "--save", "", "--appendonly", "yes", "--dir", str(cluster.folder)]
    cluster.start(store, "redis-server", *redis)
    found = {"RAY_REDIS_ADDRESS": f"{store.address}:6379"}
    cluster.start_head("--num-cpus=0", **found)
    cluster.wait_for_nodes(1)
    cluster.start_node(cluster.gateway, *GATEWAY, gateways=True)
    cluster.wait_for_nodes(2)
    cluster.start_node(worker, *WORKER)
    cluster.wait_for_nodes(3)
    cluster.submit()
    cluster.wait_until_ready()
    body = {"prompt": "a red circle", "num_inference_steps": 4, "seed": 1, "size": "96x96"}
    seen: list[tuple[int, float]] = []

    def ask_for(seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            cluster.supervise()
            started = time.monotonic()
            status, _ = cluster.ask("/v1/images/generations", body)
            seen.append((status, time.monotonic() - started))
            time.sleep(0.2)

    ask_for(3)
    cluster.kill(cluster.head)
    ask_for(12)
    cluster.start_head("--num-cpus=0", **found)
    ask_for(30)
    link = ["ip", "-n", worker.name, "link", "set", "eth0"]
    subprocess.run([*link, "down"], check=True)
    waiting = threading.Thread(target=ask_for, args=(20,))
    waiting.start()
    time.sleep(8)
    subprocess.run([*link, "up"], check=True)
    subprocess.run(["ip", "-n", worker.name, "route", "add", "default", "via", "10.213.7.1"], check=True)
    waiting.join()
    statuses = [status for status, _ in seen]
    sys.stdout.write(f"{len(seen)} requests, the slowest took {max(seconds for _, seconds in seen):.1f} s\n")
    assert set(statuses) == {200}, f"{statuses}\n{cluster.logs()}"
    assert cluster.ask("/health/ready", port=8001)[0] == 200
