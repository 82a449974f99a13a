"""Real servers for tests, in processes of their own."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lego_serve.cli.demo import free_port, stop


@dataclass(frozen=True)
class Server:
    """A running ``lego-serve serve``."""

    url: str
    process: subprocess.Popen[bytes]
    ready_s: float


@contextmanager
def running(folder: Path, gateways: int, faults: Path | None = None, text: str | None = None) -> Iterator[Server]:
    """The default deployment, or that of a configuration's text, in processes of its own.

    ``faults`` is a folder whose ``sitecustomize`` they all read.
    """
    port = free_port()
    config = folder / "config.yaml"
    text = text or (Path(__file__).parents[2] / "configs" / "tiny.yaml").read_text()
    # Whatever it keeps beyond its end stays in the folder too.
    config.write_text(text.replace("gateways: 1", f"gateways: {gateways}, data: {folder / 'data'}"))
    command = [sys.executable, "-m", "lego_serve.cli.main", "serve", str(config), "--port", str(port)]
    path = [] if faults is None else [str(faults)]
    path += [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path)}
    log = folder / "server.log"
    started = time.monotonic()
    with log.open("wb") as file:
        process = subprocess.Popen(command, start_new_session=True, env=environment, stdout=file, stderr=file)
    try:
        while "ready in" not in log.read_text():  # said once every gateway listens
            assert process.poll() is None, f"the server ended with status {process.returncode}"
            assert time.monotonic() - started < 400, "the server was not ready within 400 s"
            time.sleep(0.2)
        yield Server(f"http://127.0.0.1:{port}", process, time.monotonic() - started)
    finally:
        left = stop(process)
        sys.stdout.write(log.read_text())  # shown beside a test that fails
        assert not left, f"processes left behind: {left}"
