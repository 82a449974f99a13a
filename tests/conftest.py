"""Shared fixtures: model folders made once a session, and one real server for the tests that need it."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
import torch
from hypothesis import HealthCheck, settings

from lego_serve.demo import _free_port, _stop

torch.set_num_threads(1)
# On a busy machine an example may take any time; that says nothing of what it shows.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """lego-tiny's architecture with random weights, in fp32, as a diffusers folder."""
    from lego_serve.zoo.export import export, untrained

    folder = tmp_path_factory.mktemp("tiny")
    export(untrained(), folder, torch.float32, max_bytes=64_000_000)
    return folder


@dataclass(frozen=True)
class Server:
    """A running ``lego-serve serve``."""

    url: str
    process: subprocess.Popen[bytes]
    ready_s: float


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The default deployment with two gateways, started once for all tests that need a real one."""
    port = _free_port()
    config = tmp_path_factory.mktemp("server") / "config.yaml"
    text = (Path(__file__).parent.parent / "configs" / "tiny.yaml").read_text()
    config.write_text(text.replace("gateways: 1", "gateways: 2"))
    command = [sys.executable, "-m", "lego_serve.cli", "serve", str(config), "--port", str(port)]
    started = time.monotonic()
    process = subprocess.Popen(command, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            assert process.poll() is None, f"the server ended with status {process.returncode}"
            assert time.monotonic() - started < 240, "the server was not ready within 240 s"
            try:
                if httpx2.get(f"{url}/health/ready", timeout=2).status_code == 200:
                    break
            except httpx2.HTTPError:
                time.sleep(0.2)
        yield Server(url, process, time.monotonic() - started)
    finally:
        left = _stop(process)
        assert not left, f"processes left behind: {left}"
