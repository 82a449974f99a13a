"""The console of a server whose replicas die: its own lines on standard output, and on standard error lines of JSON."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from lego_serve.cli.demo import free_port, stop
from tests.support.e2e.servers import CRASHES, OneServer, Server, replicas_of

pytestmark = pytest.mark.ray
OWN = ("starting Ray", "loading ", "loaded ", "ready in ", "http://")


def test_killed_replicas_leave_no_foreign_line_on_the_console(one_server: OneServer, tmp_path: Path) -> None:
    """What Ray has to say of them is logged, one JSON object a line, as what gateways say is."""
    one_server.stop()
    port, config, out, err = free_port(), tmp_path / "config.yaml", tmp_path / "out", tmp_path / "err"
    config.write_text(CRASHES.replace("gateways: 1", f"gateways: 1, data: {tmp_path / 'data'}"))
    command = [sys.executable, "-m", "lego_serve.cli.main", "serve", str(config), "--port", str(port)]
    with out.open("wb") as stdout, err.open("wb") as stderr:
        process = subprocess.Popen(command, start_new_session=True, stdout=stdout, stderr=stderr)
    try:
        _wait_for(lambda: "ready in" in out.read_text() or process.poll() is not None, 400)
        assert process.poll() is None, err.read_text()
        server = Server(f"http://127.0.0.1:{port}", process, 0.0)
        for component in ("backbone", "text_encoder"):
            os.kill(replicas_of(server, component)[0], signal.SIGKILL)
            body = {"prompt": f"a red circle, {component}", "num_inference_steps": 4}
            assert httpx2.post(f"{server.url}/v1/images/generations", json=body, timeout=120).status_code == 200
        _wait_for(lambda: "raylet: A worker died" in err.read_text(), 60)
    finally:
        left = stop(process)
    assert not left, f"processes left behind: {left}"
    assert [line for line in out.read_text().splitlines() if not line.startswith(OWN)] == []
    for line in err.read_text().splitlines():
        assert {"time", "level", "logger", "message"} <= json.loads(line).keys(), line


def _wait_for(condition: Callable[[], bool], limit_s: float) -> None:
    limit = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < limit, f"nothing for {limit_s:g} s"
        time.sleep(0.2)
