"""Published traces, for tests that compare with published results; they are no part of the repository."""

from pathlib import Path

import pytest

from benchmarks.simulator.traces import diflow_requests, published
from lego_serve.sim.cluster import Setting
from lego_serve.sim.workload import Request


def diflow(setting: Setting, scale: str) -> list[Request]:
    """The requests of one of the artifact's traces; skips where they are not."""
    return diflow_requests(setting, _found(f"diflow_rs{scale}.txt"))


def _found(name: str) -> Path:
    path = published(name)
    if path is None:
        pytest.skip(f"{name} is not here; LEGO_SHARED_DATA names the folder of published data")
    return path
