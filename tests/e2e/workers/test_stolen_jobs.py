"""A worker that has just started takes jobs that another has not begun; it may be killed then."""

import os
import signal
import time
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import httpx2
import numpy as np
import pytest

from tests.support.e2e.asked import Asked
from tests.support.e2e.faults.sitecustomize import HOLD_READS
from tests.support.e2e.images import pixels
from tests.support.e2e.servers import FAULTS, Server, replicas_of, running

# A server of its own; tests/core/placement/test_pool.py is quick.
pytestmark = [pytest.mark.ray, pytest.mark.long]
SHARED = "{text_encoder: {placement: shared}, backbone: {placement: shared}, vae: {placement: shared}}"
CONFIG = f"""
server: {{host: 127.0.0.1, port: 8000, gateways: 1}}
models:
  one: {{path: "builtin:lego-tiny", max_sequence_length: 0, nodes: {SHARED}}}
workers: {{replicas: {{min: 1, max: 2}}, cpus: 0.4, max_bytes: 60000000}}
workflows: [one.yaml]
"""
LONG = {"model": "one", "num_inference_steps": 40, "size": "256x256"}


@pytest.fixture
def no_lane_begins(tmp_path: Path) -> Path:
    """The file while which exists no lane of `served` begins."""
    return tmp_path / "hold"


@pytest.fixture
def served(tmp_path_factory: pytest.TempPathFactory, no_lane_begins: Path) -> Iterator[Server]:
    """A server with one worker, that may have another."""
    folder = tmp_path_factory.mktemp("stolen")
    own = (resources.files("lego_serve") / "workflows" / "lego-tiny.yaml").read_text()
    (folder / "one.yaml").write_text(own.replace("lego-tiny", "one"))
    with running(folder, 1, FAULTS, CONFIG, {HOLD_READS: str(no_lane_begins)}) as server:
        yield server


def stolen(server: Server) -> list[dict]:
    """The jobs that went to a worker without work."""
    return list(httpx2.get(f"{server.url}/v1/admin/decisions?kind=steal", timeout=30).json()["data"])


def pin(server: Server, workers: int) -> None:
    """Have so many workers."""
    path = f"{server.url}/v1/admin/nodes/shared.workers/replicas"
    httpx2.put(path, json={"min": workers, "max": workers}, timeout=60).raise_for_status()


def test_a_worker_may_be_killed_while_it_has_a_job_of_another(served: Server, no_lane_begins: Path) -> None:
    """Every request is answered once, with the bits it always has."""
    pin(served, 1)
    Asked(served.url, **(LONG | {"num_inference_steps": 10})).wait()  # what a job takes is known then
    [first] = replicas_of(served, "workers")
    no_lane_begins.touch()  # or all had begun, in one batch, before another worker is there
    asked = Asked(served.url, **LONG)
    pin(served, 2)
    limit = time.monotonic() + 300
    while not stolen(served):
        assert time.monotonic() < limit, "no job was taken"
        time.sleep(0.1)
    no_lane_begins.unlink()
    time.sleep(1.0)
    [second] = [pid for pid in replicas_of(served, "workers") if pid != first]
    os.kill(second, signal.SIGKILL)
    asked.wait()
    again = Asked(served.url, **LONG)
    again.wait()
    for seed, answer in asked.answers.items():
        assert answer.status_code == 200, answer.text
        images, wanted = answer.json()["data"], again.answers[seed].json()["data"]
        assert np.array_equal(pixels(images[0]), pixels(wanted[0]))
