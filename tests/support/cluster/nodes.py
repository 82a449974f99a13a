"""A server on several machines, started part by part with the commands of docs/deployment.md."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path

import yaml

from tests.support.cluster.namespaces import Machine, machines

BIN = Path(sys.executable).parent
KEY = "for-development-only"
TOKEN = "for-development-only"
FAST = {  # as in the manifests
    "RAY_health_check_period_ms": "2000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "4",
}
SMALL = ("--object-store-memory=100000000", "--block")
RESTARTS = 3  # of a machine's first process: Ray gives a node 30 s to start, and gives up on a busy machine


class Cluster:
    """A head and machines that join it.  What ends by itself is started anew, as a kubelet or systemd would."""

    def __init__(self, folder: Path, hosts: Sequence[Machine]) -> None:
        self.folder, self.hosts, self.head = folder, hosts, hosts[0]
        self.gateway = hosts[0]  # the machine whose gateway is asked
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.config = folder / "config.yaml"
        self.environment = (
            os.environ
            | FAST
            | {
                "PATH": f"{BIN}:{os.environ['PATH']}",
                "RAY_AUTH_MODE": "token",
                "RAY_AUTH_TOKEN": TOKEN,
                "RAY_USAGE_STATS_ENABLED": "0",
                "RAY_ENABLE_AUTO_CONNECT": "0",
                "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
                "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
                "RAY_LOG_TO_STDERR": "1",
                "OMP_NUM_THREADS": "1",
            }
        )
        self._starts: dict[str, Callable[[], subprocess.Popen[bytes]]] = {}
        self._restarts: dict[str, int] = {}

    def configure(self, text: str) -> None:
        """Write the configuration, and the file of keys that it names."""
        self.config.write_text(text)
        digest = sha256(KEY.encode()).hexdigest()
        (self.folder / "keys.yaml").write_text(f"keys: [{{sha256: '{digest}', tenant: dev, scope: admin}}]\n")

    def start(self, machine: Machine, *command: str, **environment: str) -> None:
        """Start a machine's first process."""
        log, names = self.folder / f"{machine.name}.log", self.environment | environment
        self._starts[machine.name] = lambda: machine.start(command, log, names)
        self.running[machine.name] = self._starts[machine.name]()

    def start_head(self, *options: str, gateways: bool = False, **environment: str) -> None:
        """Start the head; where Redis keeps what it knows, it finds that again."""
        own = [f"--node-ip-address={self.head.address}", "--port=6379", "--dashboard-host=0.0.0.0"]
        self._start_ray(self.head, ["--head", *own, *options], gateways, **environment)

    def start_node(self, machine: Machine, *options: str, gateways: bool = False) -> None:
        """Start a machine that joins the head."""
        own = [f"--address={self.head.address}:6379", f"--node-ip-address={machine.address}"]
        self._start_ray(machine, [*own, *options], gateways)

    def _start_ray(self, machine: Machine, options: list[str], gateways: bool, **environment: str) -> None:
        ours = ["--config", str(self.config), "--gateways", "1"] if gateways else []
        self.start(machine, "lego-serve", "node", *ours, "--", "ray", "start", *options, *SMALL, **environment)

    def kill(self, machine: Machine) -> None:
        """Lose a machine: everything on it ends at once."""
        process = self.running.pop(machine.name)
        process.kill()
        process.wait()

    def close(self) -> None:
        """Lose all of them."""
        for machine in self.hosts:
            if machine.name in self.running:
                self.kill(machine)

    def supervise(self) -> None:
        """Start anew what has ended by itself."""
        for name, process in list(self.running.items()):
            if process.poll() is not None:
                self._restarts[name] = self._restarts.get(name, 0) + 1
                assert self._restarts[name] <= RESTARTS, f"{name} ends again and again\n{self.logs()}"
                self.running[name] = self._starts[name]()

    def ask(self, path: str, body: object = None, port: int = 8000, timeout_s: float = 120) -> tuple[int, str]:
        """Request something of the gateway from the head's machine; status 0 where nobody listens."""
        done = self.head.run(*self.curl(path, body, port, timeout_s), timeout_s=timeout_s + 10)
        text, _, status = done.stdout.rpartition("\n")
        return int(status or 0), text

    def curl(self, path: str, body: object, port: int, timeout_s: float) -> list[str]:
        """The command of a request."""
        data = ["-H", "content-type: application/json", "-d", json.dumps(body)] if body is not None else []
        words = ["curl", "-s", "-m", str(timeout_s), "-w", "\n%{http_code}", "-H", f"authorization: Bearer {KEY}"]
        return [*words, *data, f"http://{self.gateway.address}:{port}{path}"]

    def fly(self, body: object, timeout_s: float = 280) -> "subprocess.Popen[str]":
        """Begin to request an image."""
        words = self.curl("/v1/images/generations", body, 8000, timeout_s)
        command = ["nsenter", f"--net=/run/netns/{self.head.name}", *words]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def wait(self, what: str, is_so: Callable[[], bool], limit_s: float) -> float:
        """Wait until something is so; answers the seconds."""
        started = time.monotonic()
        while not is_so():
            assert time.monotonic() - started < limit_s, f"{what}: not within {limit_s:.0f} s\n{self.logs()}"
            self.supervise()
            time.sleep(0.25)
        return time.monotonic() - started

    def wait_until_ready(self, limit_s: float = 300) -> float:
        """Wait until the gateway's nodes answer; answers the seconds."""
        return self.wait("the nodes", lambda: self.ask("/health/ready", port=8001)[0] == 200, limit_s)

    def dashboard(self, path: str, *words: str) -> tuple[int, str]:
        """Request something of the head's dashboard, with the token; status 0 where nobody listens."""
        command = ["curl", "-s", "-w", "\n%{http_code}", "-H", f"authorization: Bearer {TOKEN}", *words]
        text, _, status = self.head.run(*command, f"http://{self.head.address}:8265{path}").stdout.rpartition("\n")
        return int(status or 0), text

    def wait_for_nodes(self, count: int, limit_s: float = 240) -> float:
        """Wait until so many machines are part of the cluster: one that still starts needs the processors."""

        def are_there() -> bool:
            status, text = self.dashboard("/nodes?view=summary")
            nodes = json.loads(text)["data"]["summary"] if status == 200 else []
            return sum(node["raylet"].get("state") == "ALIVE" for node in nodes) >= count

        return self.wait(f"{count} machines", are_there, limit_s)

    def submit(self) -> None:
        """Be the operator: print the nodes and submit them to the head's dashboard, with the token."""
        command = [str(BIN / "lego-serve"), "cluster", "serve-config", str(self.config)]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        words = ["-X", "PUT", "-H", "content-type: application/json", "-d", json.dumps(yaml.safe_load(text))]
        self.wait("the dashboard", lambda: self.dashboard("/api/serve/applications/", *words)[0] == 200, 120)

    def logs(self) -> str:
        """The last lines of each machine's log."""
        return "\n".join(f"{log.name}: {log.read_text()[-3000:]}" for log in self.folder.glob("*.log"))


@contextmanager
def cluster_of(count: int, folder: Path, settings: str) -> Iterator[Cluster]:
    """So many machines on which nothing runs yet; ``settings`` has a place for the folder of data."""
    with ExitStack() as scope:
        made = Cluster(folder, scope.enter_context(machines(count, folder / "m")))
        made.configure(settings.format(data=folder / "data"))
        scope.callback(made.close)
        yield made
