"""A server on several machines, started part by part with the commands of docs/deployment.md; one of them is lost."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.cluster.namespaces import Machine, machines, why_not

BIN = Path(sys.executable).parent
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
KEY = "for-development-only"
FAST = {  # as in the manifests
    "RAY_health_check_period_ms": "2000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "4",
}
pytestmark = [pytest.mark.ray, pytest.mark.long]
# Ray gives a machine 30 s to start, and its agents 15: where processes wait for a processor that is not always enough.
ASKED = "LEGO_CLUSTER"
not_asked = None if os.environ.get(ASKED) == "1" else f"set {ASKED}=1, on an idle machine"
if (reason := why_not() or not_asked) is not None:
    pytestmark.append(pytest.mark.skip(reason=reason))


class Cluster:
    """A head, a gateway and machines that compute."""

    def __init__(self, folder: Path, hosts: list[Machine]) -> None:
        self.folder, self.head, self.gateway, self.workers = folder, hosts[0], hosts[1], hosts[2:]
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.config = folder / "config.yaml"
        self.environment = (
            os.environ
            | FAST
            | {
                "PATH": f"{BIN}:{os.environ['PATH']}",
                "RAY_AUTH_MODE": "token",
                "RAY_AUTH_TOKEN": "for-development-only",
                "RAY_USAGE_STATS_ENABLED": "0",
                "RAY_ENABLE_AUTO_CONNECT": "0",
                "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
                "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
                "RAY_LOG_TO_STDERR": "1",
                "OMP_NUM_THREADS": "1",
            }
        )

    def start(self, machine: Machine, *command: str, **environment: str) -> None:
        """Start a machine's first process."""
        log = self.folder / f"{machine.name}.log"
        self.running[machine.name] = machine.start(command, log, self.environment | environment)

    def start_head(self, **environment: str) -> None:
        """Start the head; where Redis keeps what it knows, it finds that again."""
        own = [f"--node-ip-address={self.head.address}", "--port=6379", "--dashboard-host=0.0.0.0", "--num-cpus=0"]
        self.start(
            self.head, "ray", "start", "--head", *own, "--object-store-memory=100000000", "--block", **environment
        )

    def start_node(self, machine: Machine, *options: str, gateways: bool = False) -> None:
        """Start a machine that joins the head."""
        ray = ["ray", "start", f"--address={self.head.address}:6379", f"--node-ip-address={machine.address}"]
        ours = ["--config", str(self.config), "--gateways", "1"] if gateways else []
        small = ["--object-store-memory=100000000", "--block"]
        self.start(machine, "lego-serve", "node", *ours, "--", *ray, *small, *options)

    def kill(self, machine: Machine) -> None:
        """Lose a machine: everything on it ends at once."""
        process = self.running.pop(machine.name)
        process.kill()
        process.wait()

    def ask(self, path: str, body: object = None, port: int = 8000, timeout_s: float = 120) -> tuple[int, str]:
        """Request something of the gateway from the head's machine; status 0 where nobody listens."""
        data = ["-H", "content-type: application/json", "-d", json.dumps(body)] if body is not None else []
        words = ["-s", "-m", str(timeout_s), "-w", "\n%{http_code}", "-H", f"authorization: Bearer {KEY}", *data]
        url = f"http://{self.gateway.address}:{port}{path}"
        done = self.head.run("curl", *words, url, timeout_s=timeout_s + 10)
        text, _, status = done.stdout.rpartition("\n")
        return int(status or 0), text

    def wait(self, what: str, is_so: Callable[[], bool], limit_s: float) -> float:
        """Wait until something is so; answers the seconds."""
        started = time.monotonic()
        while not is_so():
            assert time.monotonic() - started < limit_s, f"{what}: not within {limit_s:.0f} s\n{self.logs()}"
            time.sleep(0.5)
        return time.monotonic() - started

    def submit(self) -> None:
        """Be the operator: print the nodes and submit them to the head's dashboard, with the token."""
        command = [str(BIN / "lego-serve"), "cluster", "serve-config", str(self.config)]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        import yaml

        body = json.dumps(yaml.safe_load(text))
        words = ["-s", "-o", "/dev/null", "-w", "%{http_code}", "-X", "PUT", "-H", "content-type: application/json"]
        token = ["-H", f"authorization: Bearer {self.environment['RAY_AUTH_TOKEN']}", "-d", body]
        url = f"http://{self.head.address}:8265/api/serve/applications/"
        self.wait("the dashboard", lambda: self.head.run("curl", *words, *token, url).stdout == "200", 120)

    def logs(self) -> str:
        """The last lines of each machine's log."""
        return "\n".join(f"{log.name}: {log.read_text()[-3000:]}" for log in self.folder.glob("*.log"))


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Four machines on which nothing runs yet."""
    from hashlib import sha256

    with ExitStack() as scope:
        hosts = scope.enter_context(machines(4, tmp_path / "m"))
        made = Cluster(tmp_path, hosts)
        made.config.write_text(SETTINGS.format(data=tmp_path / "data"))
        digest = sha256(KEY.encode()).hexdigest()
        (tmp_path / "keys.yaml").write_text(f"keys: [{{sha256: '{digest}', tenant: dev, scope: admin}}]\n")
        scope.callback(lambda: [made.kill(host) for host in hosts if host.name in made.running])
        yield made


def test_a_request_survives_the_loss_of_the_only_machine_that_computes(cluster: Cluster) -> None:
    """The gateway answers health checks before all else; the request in flight is answered by the replacement."""
    cluster.start_head()
    cluster.start_node(cluster.gateway, "--num-cpus=0", gateways=True)
    cluster.wait("the gateway's health", lambda: cluster.ask("/health/live", port=8001)[0] == 200, 120)
    assert cluster.ask("/health/ready", port=8001)[0] == 503
    cluster.start_node(cluster.workers[0], "--num-cpus=2", "--labels=lego-class=cpu")
    cluster.submit()
    cluster.wait("the nodes", lambda: cluster.ask("/health/ready", port=8001)[0] == 200, 300)
    body = {"prompt": "a red circle", "num_inference_steps": 100, "seed": 1, "size": "128x128"}
    status, before = cluster.ask("/v1/images/generations", body)
    assert status == 200, before
    assert cluster.ask("/metrics")[0] == 404
    assert "lego_serve_jobs_accepted_total 1.0" in cluster.ask("/metrics", port=8001)[1]
    words = ["curl", "-s", "-m", "280", "-w", "\n%{http_code}", "-H", f"authorization: Bearer {KEY}"]
    words += ["-H", "content-type: application/json", "-d", json.dumps(body)]
    url = f"http://{cluster.gateway.address}:8000/v1/images/generations"
    command = ["nsenter", f"--net=/run/netns/{cluster.head.name}", *words, url]
    flying = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    cluster.wait("the second job", lambda: "requests_in_flight 1.0" in cluster.ask("/metrics", port=8001)[1], 30)
    cluster.kill(cluster.workers[0])
    cluster.start_node(cluster.workers[1], "--num-cpus=2", "--labels=lego-class=cpu")
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
    worker, store = cluster.workers
    redis = ["--protected-mode", "no", "--save", "", "--appendonly", "yes", "--dir", str(cluster.folder)]
    cluster.start(store, "redis-server", *redis)
    found = {"RAY_REDIS_ADDRESS": f"{store.address}:6379"}
    cluster.start_head(**found)
    cluster.start_node(cluster.gateway, "--num-cpus=0", gateways=True)
    cluster.start_node(worker, "--num-cpus=2", "--labels=lego-class=cpu")
    cluster.submit()
    cluster.wait("the nodes", lambda: cluster.ask("/health/ready", port=8001)[0] == 200, 300)
    body = {"prompt": "a red circle", "num_inference_steps": 4, "seed": 1, "size": "96x96"}
    seen: list[tuple[int, float]] = []

    def ask_for(seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            started = time.monotonic()
            status, _ = cluster.ask("/v1/images/generations", body)
            seen.append((status, time.monotonic() - started))
            time.sleep(0.2)

    ask_for(3)
    cluster.kill(cluster.head)
    ask_for(12)
    cluster.start_head(**found)
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
