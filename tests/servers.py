"""Real servers for tests, in processes of their own."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

from lego_serve.demo import _free_port, _stop


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
    port = _free_port()
    config = folder / "config.yaml"
    text = text or (Path(__file__).parent.parent / "configs" / "tiny.yaml").read_text()
    # Whatever it keeps beyond its end stays in the folder too.
    config.write_text(text.replace("gateways: 1", f"gateways: {gateways}, data: {folder / 'data'}"))
    command = [sys.executable, "-m", "lego_serve.cli", "serve", str(config), "--port", str(port)]
    path = [] if faults is None else [str(faults)]
    path += [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    started = time.monotonic()
    process = subprocess.Popen(command, start_new_session=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(path)})
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            assert process.poll() is None, f"the server ended with status {process.returncode}"
            assert time.monotonic() - started < 400, "the server was not ready within 400 s"
            try:
                if httpx2.get(f"{url}/health/ready", timeout=2).status_code == 200:
                    break
            except httpx2.HTTPError:
                time.sleep(0.2)
        yield Server(url, process, time.monotonic() - started)
    finally:
        left = _stop(process)
        assert not left, f"processes left behind: {left}"
