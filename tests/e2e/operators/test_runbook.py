"""Each section of the runbook, followed on a real server: its alert fires in a real Prometheus, and its steps help."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx2
import numpy as np
import pytest

from lego_serve.process.tree import command_of, descendants
from tests.support.e2e.faults.sitecustomize import DEADLY_GUIDANCE
from tests.support.e2e.images import mask_file, png
from tests.support.e2e.prometheus import Prometheus, watching
from tests.support.e2e.servers import FAULTS, Server, backbones, running, wait_for_death

# A server of its own, which is short of everything; the rules and what they count have quick tests.
pytestmark = [
    pytest.mark.ray,
    pytest.mark.long,
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="needs prometheus (apt-get install prometheus)"),
]
SECRET = "whsec_" + "bmV3" * 8
PLACES = 24
CONFIG = """
server: {{host: 127.0.0.1, port: 8000, gateways: 1, max_pending_jobs: {places}}}
models:
  lego-tiny:
    path: builtin:lego-tiny
    max_sequence_length: 0
    nodes:
      text_encoder: {{cpus: 0.1}}
      backbone: {{cpus: 0.3, lane_policy: fifo, max_rows: 600, template_bytes: {template_bytes}}}
      vae: {{cpus: 0.1}}
    adapters: {{roots: ["builtin:adapters"], cache_bytes: {adapter_bytes}, replica_cache_bytes: {adapter_bytes}}}
workflows: [lego-tiny, lego-tiny-lora, lego-tiny-edit, careful.yaml]
jobs:
  max_running: 2
  webhooks:
    secrets: {{default: [{secret}]}}
    allowed_hosts: ["127.0.0.1:{port}"]
    timeout_s: 8
"""
LITTLE = {"template_bytes": 1_000_000, "adapter_bytes": 300_000}  # one template's entries, less than an adapter
ENOUGH = {"template_bytes": 268_435_456, "adapter_bytes": 134_217_728}


class Hooks(ThreadingHTTPServer):
    """A receiver of webhooks that answers nothing until it is well."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), SlowAnswer)
        self.is_well = threading.Event()


class SlowAnswer(BaseHTTPRequestHandler):
    """Its answer to one message."""

    server: Hooks

    def do_POST(self) -> None:
        """Answer once all is well, or long after anybody waits."""
        self.server.is_well.wait(60)
        self.send_response(204)
        self.end_headers()

    def log_message(self, *words: object) -> None:
        """Say nothing."""


@dataclass(frozen=True, slots=True)
class Site:
    """A server in need, what it logs, its receiver, and who watches it."""

    server: Server
    log: Path
    hooks: Hooks
    prometheus: Prometheus

    def lego_serve(self, *words: str) -> str:
        """What a command prints, as the runbook has it."""
        command = [sys.executable, "-m", "lego_serve.cli.main", *words, "--url", self.server.url]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout

    def ask(self, **body: object) -> httpx2.Response:
        """One image, however it ends."""
        body = {"prompt": "a red circle", "size": "128x128"} | body
        return httpx2.post(f"{self.server.url}/v1/images/generations", json=body, timeout=300)

    def ask_all(self, count: int, **body: object) -> list[httpx2.Response]:
        """So many at once."""
        with ThreadPoolExecutor(count) as pool:
            return list(pool.map(lambda seed: self.ask(seed=seed, **body), range(count)))


@pytest.fixture(scope="module")
def hooks() -> Iterator[Hooks]:
    """The receiver."""
    with Hooks() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.is_well.set()
        server.shutdown()


@pytest.fixture(scope="module", params=[LITTLE])
def site(request, tmp_path_factory: pytest.TempPathFactory, hooks: Hooks) -> Iterator[Site]:
    """A server with few places and, unless it is to have enough, little memory."""
    folder = tmp_path_factory.mktemp("runbook")
    own = (Path(__file__).parents[3] / "lego_serve" / "workflows" / "lego-tiny-edit.yaml").read_text()
    own = own.replace("name: lego-tiny-edit", "name: careful").replace("min_ssim: 0.95", "min_ssim: 1")
    (folder / "careful.yaml").write_text(own)
    text = CONFIG.format(port=hooks.server_address[1], secret=SECRET, places=PLACES, **request.param)
    with running(folder, 1, FAULTS, text) as server, watching(server.url, folder) as prometheus:
        yield Site(server, folder / "server.log", hooks, prometheus)


def edited(site: Site, shade: int, **fields: str) -> dict[str, object]:
    """What the answer to an edit of a plain image says of reading activations."""
    mask = np.zeros((128, 128), dtype=bool)
    mask[:32, :32] = True
    files = {"image": png(np.full((128, 128, 3), shade, np.uint8)), "mask": mask_file(mask)}
    data = {"prompt": "a red circle", "num_inference_steps": "8"} | fields
    answer = httpx2.post(f"{site.server.url}/v1/images/edits", files=files, data=data, timeout=300)
    assert answer.status_code == 200, answer.text
    found: dict[str, object] = answer.json()["lego"]["reuse"]
    return found


def test_too_many_requests_wait_and_are_rejected(site: Site) -> None:
    """The outcome says why objectives are missed, the queue names the node, and another replica is a command away."""
    asked = ThreadPoolExecutor(1).submit(site.ask_all, 3 * PLACES, size="256x256", num_inference_steps=40)
    time.sleep(8)
    table = site.lego_serve("jobs")
    assert table.count("lego-tiny") >= PLACES / 2, table
    site.prometheus.wait_for("RequestsAreRejected", "SloBurnsFast", "SloBurnsSlowly")
    answers = asked.result()
    assert {answer.status_code for answer in answers} == {200, 429}
    rejected = [answer.json()["error"]["code"] for answer in answers if answer.status_code == 429]
    assert set(rejected) == {"over_capacity"}
    site.prometheus.wait_for("QueueIsLong")
    [counted] = site.prometheus.values('sum(lego_serve_requests_total{outcome="over_capacity"})')
    assert counted == len(rejected)
    for count in (2, 1):
        site.lego_serve("scale", "lego-tiny.backbone", str(count))
        _wait_for_backbones(site, count)


def _wait_for_backbones(site: Site, count: int) -> None:
    """Until so many replicas of the backbone run."""
    limit = time.monotonic() + 90
    while len(found := backbones(site.server)) != count:
        assert time.monotonic() < limit, f"not {count} replicas, but {len(found)}"
        time.sleep(0.5)


def test_durable_jobs_wait_and_so_do_messages_about_their_ends(site: Site) -> None:
    """Those that nobody wants any more are ended; once the receiver answers, it gets what it has missed."""
    site.hooks.is_well.clear()
    url = f"http://127.0.0.1:{site.hooks.server_address[1]}/"
    job = {"endpoint": "/v1/images/generations", "body": {"prompt": "a", "num_inference_steps": 100, "size": "256x256"}}
    with httpx2.Client(base_url=site.server.url, timeout=60) as client:
        answers = [client.post("/v1/jobs", json=job | {"webhook": {"url": url}}) for _ in range(130)]
        assert {answer.status_code for answer in answers} == {202}
        site.prometheus.wait_for("DurableJobsWait")
        assert site.prometheus.values('lego_serve_durable_jobs{state="in_progress"}') == [2.0]
        assert "in_progress" in site.lego_serve("jobs", "list", "--status", "in_progress")
        *others, last = (answer.json()["id"] for answer in answers)
        assert "cancelled" in site.lego_serve("jobs", "cancel", last)
        for job_id in others:
            client.post(f"/v1/jobs/{job_id}/cancel").raise_for_status()
        site.prometheus.wait_without("DurableJobsWait")
    site.prometheus.wait_for("WebhooksWait")
    limit = time.monotonic() + 60
    while not any(site.prometheus.values('lego_serve_webhooks_total{outcome="postponed"}')):
        assert time.monotonic() < limit, "no message was postponed"
        time.sleep(0.5)
    assert "postponed (TimeoutError)" in site.log.read_text()
    site.hooks.is_well.set()
    site.prometheus.wait_without("WebhooksWait")


def test_calls_of_lost_replicas_are_made_again_and_one_that_ends_replicas_is_named(site: Site) -> None:
    """The same request each time: it ends as `poison_request`, and the log has its id."""
    made_again = 0.0
    while made_again <= 20:  # those that a replica had and not those that waited for it, counted when their jobs end
        before = made_again
        asked = ThreadPoolExecutor(1).submit(site.ask_all, PLACES, num_inference_steps=20)
        time.sleep(2)
        [lost] = backbones(site.server)
        os.kill(lost, signal.SIGKILL)
        wait_for_death(lost)
        assert {answer.status_code for answer in asked.result()} == {200}
        time.sleep(2)  # until it has been asked for the metrics again
        [made_again] = site.prometheus.values('sum(lego_serve_node_retries_total{node="denoise"})')
        assert made_again > before
    site.prometheus.wait_for("ReplicasAreLost")
    poison = site.ask(guidance_scale=DEADLY_GUIDANCE)
    assert (poison.status_code, poison.json()["error"]["code"]) == (422, "poison_request")
    ends = [line for line in site.log.read_text().splitlines() if "poison_request" in line]
    assert any(poison.headers["x-request-id"] in line for line in ends)


def test_adapters_and_templates_thrash_where_memory_is_short(site: Site) -> None:
    """What each request needs takes the place of what the next one needs."""
    for number in range(8):
        name = ("frame-r32", "outline-r16")[number % 2]
        answer = site.ask(model="lego-tiny-lora", num_inference_steps=4, lora=[{"name": name}])
        assert answer.status_code == 200, answer.text
        edited(site, 60 + 100 * (number % 2), model="lego-tiny-edit", reuse="high")
    site.prometheus.wait_for("AdaptersThrash", "TemplatesThrash")


@pytest.mark.parametrize("site", [ENOUGH], indirect=True)
def test_with_more_memory_they_do_not(site: Site) -> None:
    """The same requests: each adapter is loaded once, each template is computed once."""
    for number in range(8):
        name = ("frame-r32", "outline-r16")[number % 2]
        assert site.ask(model="lego-tiny-lora", num_inference_steps=4, lora=[{"name": name}]).status_code == 200
        edited(site, 60 + 100 * (number % 2), model="lego-tiny-edit", reuse="high")
    time.sleep(5)
    assert not site.prometheus.firing() & {"AdaptersThrash", "TemplatesThrash"}
    [loads] = site.prometheus.values("sum(lego_serve_adapter_loads_total)")
    [hits] = site.prometheus.values("sum(lego_serve_adapter_hits_total)")
    assert hits > loads > 0


def test_edits_are_computed_in_full_where_that_is_asked_for(site: Site) -> None:
    """By the request, or by the workflow's floor: from the first edit on, whatever is asked for."""
    assert edited(site, 90, model="lego-tiny-edit", reuse="exact")["quality"] == "exact"
    assert edited(site, 90, model="careful", reuse="balanced")["quality"] == "exact"


def test_no_gateway_is_ready_while_ray_is_away(site: Site) -> None:
    """Readiness says what is missing; the supervisor brings Ray back, and the alert ends by itself."""
    [raylet] = [pid for pid in descendants(site.server.process.pid) if command_of(pid) == "raylet"]
    os.kill(raylet, signal.SIGKILL)
    site.prometheus.wait_for("NoReadyGateway")
    limit = time.monotonic() + 180
    while "NoReadyGateway" in site.prometheus.firing():
        assert time.monotonic() < limit, "no gateway is ready again"
        time.sleep(0.5)
    assert site.ask(num_inference_steps=4).status_code == 200
