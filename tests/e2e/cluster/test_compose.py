"""compose.yaml by podman-compose, with the images as the Dockerfile makes them: an image is made through it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.local.containers import settings
from deploy.local.network import Network, Place
from deploy.local.operator import ask, run_in
from tests.support.cluster.pods import BODY, KEY, ROOT, build_images, why_not

COMPOSE = [str(Path(sys.executable).parent / "podman-compose"), "-f", str(ROOT / "deploy" / "compose.yaml")]
SERVICES = ("app", "redis", "prometheus")  # Grafana's image is in no registry that can be reached from here
STAND_INS = {"store": "valkey/valkey:8.1-bookworm", "prometheus": "prom/prometheus:v3.5.0"}
pytestmark = [pytest.mark.ray, pytest.mark.long]
NAMERS = ("/usr/lib/cni/dnsname", "/usr/lib/podman/aardvark-dns", "/usr/libexec/podman/aardvark-dns")
NAMELESS = "podman has no name server: apt-get install golang-github-containernetworking-plugin-dnsname dnsmasq-base"
if (reason := why_not() or (None if any(map(os.path.exists, NAMERS)) else NAMELESS)) is not None:
    pytestmark.append(pytest.mark.skip(reason=reason))


class Composed:
    """What `podman-compose` has started, in a place of its own."""

    def __init__(self, place: Place, environment: dict[str, str]) -> None:
        self.place, self._environment = place, environment

    def run(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """Run `podman-compose` there."""
        command = ["nsenter", f"--net={self.place.path}", *COMPOSE, *words]
        return subprocess.run(command, env=self._environment, capture_output=True, text=True, check=False)

    def is_healthy(self, service: str) -> bool:
        """Ask a service's own health check, which a timer of systemd's would do."""
        words = ["nsenter", f"--net={self.place.path}", "podman", "healthcheck", "run", f"lego-serve_{service}_1"]
        return subprocess.run(words, env=self._environment, capture_output=True, check=False).returncode == 0

    def logs(self, service: str) -> str:
        """The last lines that a service has printed."""
        words = ["podman", "logs", "--tail", "40", f"lego-serve_{service}_1"]
        done = subprocess.run(words, env=self._environment, capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    def ask(self, port: int, path: str, body: object = None, prefer: str = "") -> tuple[int, str]:
        """Request something of a published port."""
        headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
        headers |= {"prefer": prefer} if prefer else {}
        data = None if body is None else json.dumps(body).encode()
        words = ("127.0.0.1", port, "GET" if body is None else "POST", path, data, headers)
        answer: tuple[int, str] = run_in(self.place, lambda: ask(*words, timeout_s=120))
        return answer


@pytest.fixture
def composed(tmp_path: Path) -> Iterator[Composed]:
    """Nothing has been started yet; all of it ends."""
    build_images("worker", "store", "prometheus")
    for built, named in STAND_INS.items():
        subprocess.run(["podman", "tag", f"localhost/lego-serve:{built}", f"docker.io/{named}"], check=True)
    environment = os.environ | {"CONTAINERS_CONF": str(settings(tmp_path))}
    with Network() as network:
        made = Composed(network.add(), environment)
        try:
            yield made
        finally:
            made.run("down", "--volumes", "--timeout", "60")


def test_an_image_is_made_through_compose(composed: Composed) -> None:
    """With jobs in Redis, keys from the secret, and Prometheus that sees the server."""
    started = composed.run("up", "--detach", "--no-deps", "redis")
    assert started.returncode == 0, started.stderr
    wait("Redis", lambda: composed.is_healthy("redis"), 60, lambda: composed.logs("redis"))
    started = composed.run("up", "--detach", "--no-deps", "app", "prometheus")
    assert started.returncode == 0, started.stderr
    seconds = wait("the server", lambda: composed.is_healthy("app"), 300, lambda: composed.logs("app"))
    status, text = composed.ask(8000, "/v1/images/generations", BODY)
    assert status == 200, text
    assert json.loads(text)["data"][0]["b64_json"]
    status, text = composed.ask(8000, "/v1/images/generations", BODY, prefer="respond-async, wait=60")
    assert (status, json.loads(text).get("status")) == (200, "completed"), text  # kept in Redis
    assert composed.ask(8000, "/metrics")[0] == 404
    query = "/api/v1/query?query=lego_serve_images_total"
    wait("Prometheus", lambda: '"value"' in composed.ask(9090, query)[1], 60, lambda: composed.logs("prometheus"))
    sys.stdout.write(f"\ncompose: healthy after {seconds:.0f} s, an image made through it\n")
    stopped = composed.run("stop", "--timeout", "60", "app")
    assert stopped.returncode == 0, stopped.stderr
    words = ["podman", "inspect", "--format", "{{.State.ExitCode}}", "lego-serve_app_1"]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip() == "0"


def wait(what: str, is_so: Callable[[], bool], limit_s: float, logs: Callable[[], str]) -> float:
    """Wait until something is so; answers the seconds."""
    started = time.monotonic()
    while not is_so():
        assert time.monotonic() - started < limit_s, f"{what}: not within {limit_s:.0f} s\n{logs()}"
        time.sleep(0.5)
    return time.monotonic() - started
