"""When a gateway process listens, and on which port it answers what: over nodes that a test makes answer."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx2
import pytest

from lego_serve import app
from lego_serve.process.signals import StopSignal
from lego_serve.process.supervisor import Supervisor
from lego_serve.supervision.gateway_pulse import GatewayPulse
from tests.support.chaos.faults import stopped

ROOT = Path(__file__).parents[2]
# A gateway over nodes that are there as soon as a file is; nothing of it starts Ray.
GATEWAY = """
import asyncio, sys
from pathlib import Path
from lego_serve import gateway_process
from lego_serve.serving.cluster import connect as connecting

there = Path(sys.argv[5])

class Node:
    is_ready, hosted = False, ""

    async def probe(self):
        while not there.exists():
            await asyncio.sleep(0.01)
        self.is_ready = True

nodes = {}

def connect(address, apps):
    nodes.update({key: Node() for key in apps})
    return nodes

async def join(address, apps, expected):
    await asyncio.gather(*(node.probe() for node in nodes.values()))

connecting.connect = connect
connecting.expected = lambda apps: connect("", apps)
connecting.join = join
connecting.is_node_alive = lambda: True
words = Path(sys.argv[1]), "auto", int(sys.argv[2]), Path(sys.argv[3])
gateway_process.run_gateway(*words, mode=gateway_process.WAITS if sys.argv[4] == "waits" else "")
"""


def free_ports() -> tuple[int, int]:
    """Two ports that nobody has."""
    with socket.socket() as first, socket.socket() as second:
        for each in (first, second):
            each.bind(("127.0.0.1", 0))
        return first.getsockname()[1], second.getsockname()[1]


def command(folder: Path, api: int, server: str = "", *, waits: bool = False) -> list[str]:
    """What starts a gateway whose files are in a folder."""
    config = folder / "config.yaml"
    config.write_text(
        f"server: {{{server}data: {folder / 'data'}}}\njobs: {{store: none}}\n"
        "models: {lego-tiny: {path: 'builtin:lego-tiny', max_sequence_length: 0}}\n"
    )
    (folder / "gateways").mkdir()
    words = [str(config), str(api), str(folder / "gateways"), "waits" if waits else "", str(folder / "there")]
    return [sys.executable, "-c", GATEWAY, *words]


@contextmanager
def gateway(folder: Path, waits: bool, operations: bool) -> Iterator[tuple["subprocess.Popen[bytes]", int, int, Path]]:
    """A gateway process, its two ports, and the file that makes its nodes answer."""
    api, other = free_ports()
    ports = f"operations_port: {other}, " if operations else ""
    process = subprocess.Popen(command(folder, api, ports, waits=waits), cwd=ROOT, env=dict(os.environ))
    try:
        yield process, api, other, folder / "there"
    finally:
        process.kill()
        process.wait()


def status(port: int, path: str) -> int | None:
    """What a port answers; None where nobody listens."""
    try:
        return httpx2.get(f"http://127.0.0.1:{port}{path}", timeout=60).status_code
    except httpx2.ConnectError:
        return None


def wait_for(port: int, path: str, wanted: int) -> None:
    """Until a port answers so."""
    limit = time.monotonic() + 60
    while status(port, path) != wanted:
        assert time.monotonic() < limit, f"{path} was not {wanted} within a minute"
        time.sleep(0.05)


@pytest.mark.parametrize("waits", [True, False])
def test_operators_are_answered_at_once_and_requests_when_the_nodes_are(tmp_path: Path, waits: bool) -> None:
    """Each on its own port; SIGTERM ends it, whatever it waits for."""
    with gateway(tmp_path, waits, operations=True) as (process, api, other, there):
        wait_for(other, "/health/live", 200)
        assert [status(other, f"/health/{each}") for each in ("ready", "startup")] == [503, 503]
        assert status(api, "/health/live") is None
        there.touch()
        wait_for(api, "/health/ready", 200)
        assert [status(other, path) for path in ("/health/ready", "/metrics", "/v1/models")] == [200, 200, 404]
        assert [status(api, path) for path in ("/v1/models", "/metrics", "/v1/admin/jobs")] == [200, 404, 404]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == -signal.SIGTERM


@pytest.mark.long
def test_a_gateway_of_one_port_that_waits_says_that_it_is_starting(tmp_path: Path) -> None:
    """Health checks are answered, requests get 503 until the nodes are there."""
    with gateway(tmp_path, waits=True, operations=False) as (process, api, _, there):
        wait_for(api, "/health/live", 200)
        assert [status(api, path) for path in ("/health/ready", "/v1/models", "/metrics")] == [503, 503, 200]
        there.touch()
        wait_for(api, "/v1/models", 200)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == -signal.SIGTERM


@pytest.mark.long
def test_a_stopped_gateway_of_two_is_ended_and_the_port_gives_it_nobody(tmp_path: Path) -> None:
    """It is there, and its share of the connections would wait for ever: another one takes its place."""
    ended: list[int] = []
    api, _ = free_ports()
    words, folder = command(tmp_path, api), tmp_path / "gateways"
    (tmp_path / "there").touch()
    with closing(GatewayPulse(folder)) as pulse:
        gateways = Supervisor(lambda: words, 2, ended.append, hung=pulse.hung)
        gateways.start()
        try:
            app.wait_ready([folder / f"{pid}.sock" for pid in gateways.pids], StopSignal(), gateways.check, 240.0)
            victim, other = gateways.pids
            with stopped(victim):
                limit = time.monotonic() + 120
                gateways.watch(lambda: bool(ended) or time.monotonic() > limit)
            assert ended == [victim]
            assert (len(gateways.pids), other in gateways.pids) == (2, True)
            assert {status(api, "/health/live") for _ in range(20)} == {200}
        finally:
            gateways.shut_down()
