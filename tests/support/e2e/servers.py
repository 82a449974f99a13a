"""Real servers for tests, in processes of their own."""

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from lego_serve.cli.demo import free_port, stop
from lego_serve.process.tree import descendants

FAULTS = Path(__file__).parent / "faults"  # read by every process of a server: see its sitecustomize
TEMPLATE_BYTES = 1_500_000  # a few entries, where each of four templates has sixty
CRASHES = f"""
server: {{host: 127.0.0.1, port: 8000, gateways: 1, max_pending_jobs: 24}}
models:
  lego-tiny:
    path: builtin:lego-tiny
    max_sequence_length: 0
    nodes:
      text_encoder: {{cpus: 0.1}}
      backbone: {{replicas: {{min: 2, max: 2}}, cpus: 0.4, template_bytes: {TEMPLATE_BYTES}}}
      vae: {{cpus: 0.1}}
    adapters: {{roots: ["builtin:adapters"]}}
"""


@dataclass(frozen=True)
class Server:
    """A running ``lego-serve serve``."""

    url: str
    process: subprocess.Popen[bytes]
    ready_s: float


@contextmanager
def running(
    folder: Path,
    gateways: int,
    faults: Path | None = None,
    text: str | None = None,
    variables: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """The default deployment, or that of a configuration's text, in processes of its own.

    ``faults`` is a folder whose ``sitecustomize`` they all read; ``variables`` are added to their environment.
    """
    port = free_port()
    config = folder / "config.yaml"
    text = text or (Path(__file__).parents[3] / "configs" / "tiny.yaml").read_text()
    # Whatever it keeps beyond its end stays in the folder too.
    config.write_text(text.replace("gateways: 1", f"gateways: {gateways}, data: {folder / 'data'}"))
    command = [sys.executable, "-m", "lego_serve.cli.main", "serve", str(config), "--port", str(port)]
    path = [] if faults is None else [str(faults)]
    path += [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path)} | dict(variables or {})
    log = folder / "server.log"
    started = time.monotonic()
    with log.open("wb") as file:
        process = subprocess.Popen(command, start_new_session=True, env=environment, stdout=file, stderr=file)
    try:
        while "ready in" not in log.read_text():  # written once every gateway listens
            assert process.poll() is None, f"the server ended with status {process.returncode}"
            assert time.monotonic() - started < 400, "the server was not ready within 400 s"
            time.sleep(0.2)
        yield Server(f"http://127.0.0.1:{port}", process, time.monotonic() - started)
    finally:
        left = stop(process)
        sys.stdout.write(log.read_text())  # shown beside a test that fails
        assert not left, f"processes left behind: {left}"


class OneServer:
    """Keeps at most one server running: asked for another, it stops the one that is."""

    def __init__(self) -> None:
        self._name = ""
        self._stack = ExitStack()
        self._server: Server | None = None

    def get(self, name: str, start: Callable[[], AbstractContextManager[Server]]) -> Server:
        """Return the server of this name, started unless it is the one that runs."""
        if self._server is None or name != self._name:
            self.stop()
            self._server = self._stack.enter_context(start())
            self._name = name
        return self._server

    def stop(self) -> None:
        """Stop the one that runs, if any does."""
        self._server = None
        self._stack.close()


SEEDS = range(10, 18)


def begun(steps_log: Path, since: int) -> dict[int, Counter[int]]:
    """How often each step was begun, by the lane's seed, in what was written down from so many bytes on."""
    found = {seed: Counter[int]() for seed in SEEDS}
    for line in steps_log.read_bytes()[since:].decode().splitlines():
        seed, step = map(int, line.split())
        if seed in found:
            found[seed][step] += 1
    return found


def backbones(server: Server) -> list[int]:
    """The processes of the backbone's replicas."""
    return replicas_of(server, "backbone")


def replicas_of(server: Server, component: str) -> list[int]:
    """The processes of a component's replicas."""
    found = []
    for pid in descendants(server.process.pid):
        try:
            title = Path(f"/proc/{pid}/cmdline").read_text()
        except OSError:
            continue
        if title.startswith("ray::") and component in title:
            found.append(pid)
    return found


def wait_for_two(server: Server) -> None:
    """Until both replicas are listed; while one comes up an answer may be that they cannot be asked."""
    limit = time.monotonic() + 120
    while time.monotonic() < limit:
        answer = httpx2.get(f"{server.url}/v1/admin/replicas", timeout=30)
        if answer.status_code == 200 and len(answer.json()["data"]) == 2:
            return
        time.sleep(0.5)
    pytest.fail("the replica was not replaced within two minutes")


def wait_for_death(pid: int, patience_s: float = 60.0) -> None:
    """Until a killed process has closed what it had open: on a busy machine that is some time after the signal."""
    limit = time.monotonic() + patience_s
    while time.monotonic() < limit:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return
        # Ended, and not yet waited for: all threads of it, for the first may end before one that holds its files.
        if stat.rpartition(")")[2].split()[0] in "ZX" and _threads(pid) <= 1:
            return
        time.sleep(0.005)
    pytest.fail(f"process {pid} has not ended within {patience_s:g} s")


def _threads(pid: int) -> int:
    """How many threads of a process have not ended; one stands for a process that is not yet waited for."""
    try:
        return len(os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return 0


def wait_until_both_serve(server: Server, patience_s: float = 180.0) -> None:
    """Until the supervisor has replaced what was killed, and every gateway is ready."""
    limit = time.monotonic() + patience_s
    ready: set[str] = set()
    while len(ready) < 2:
        assert time.monotonic() < limit, f"{len(ready)} of 2 gateways serve {patience_s:.0f} s after the kill"
        time.sleep(0.1)
        ready = {line for line in Path("/proc/net/tcp").read_text().splitlines() if _listens(line, server)}


def _listens(line: str, server: Server) -> bool:
    """Whether a line of the kernel's table is a listening socket of the server's port."""
    port = f":{int(server.url.rsplit(':', 1)[1]):04X}"
    fields = line.split()
    return fields[1].endswith(port) and fields[3] == "0A"
