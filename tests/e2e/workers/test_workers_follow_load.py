"""The number of shared workers follows the jobs there are, most of which wait in the gateway: nobody pins anything."""

import threading
import time
from collections.abc import Callable, Iterator
from importlib import resources

import httpx2
import pytest

from tests.support.e2e.asked import ask
from tests.support.e2e.faults.sitecustomize import SCALE_TIMES
from tests.support.e2e.servers import FAULTS, Server, replicas_of, running

# A server of its own; tests/core/placement/test_replica_scaler.py is quick.
pytestmark = [pytest.mark.ray, pytest.mark.long]
SHARED = "{text_encoder: {placement: shared}, backbone: {placement: shared}, vae: {placement: shared}}"
CONFIG = f"""
server: {{host: 127.0.0.1, port: 8000, gateways: 1}}
models:
  one: {{path: "builtin:lego-tiny", max_sequence_length: 0, nodes: {SHARED}}}
workers: {{replicas: {{min: 1, max: 2}}, cpus: 0.4, max_bytes: 60000000}}
workflows: [one.yaml]
"""
TIMES = "3,10,5"  # of the scaler, which waits for minutes otherwise
SHORT = {"model": "one", "num_inference_steps": 10, "size": "128x128"}
AT_ONCE = 20  # of which a worker gets eight
PATIENCE_S = 150.0


@pytest.fixture
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with one worker, that may have another."""
    folder = tmp_path_factory.mktemp("load")
    own = (resources.files("lego_serve") / "workflows" / "lego-tiny.yaml").read_text()
    (folder / "one.yaml").write_text(own.replace("lego-tiny", "one"))
    with running(folder, 1, FAULTS, CONFIG, {SCALE_TIMES: TIMES}) as server:
        yield server


class Crowd:
    """So many who ask again as soon as they are answered, until it is enough."""

    def __init__(self, url: str) -> None:
        self._url, self._is_enough = url, threading.Event()
        self.codes: list[int] = []
        self._threads = [threading.Thread(target=self._ask, args=(seed,)) for seed in range(AT_ONCE)]
        for thread in self._threads:
            thread.start()

    def _ask(self, seed: int) -> None:
        while not self._is_enough.is_set():
            self.codes.append(ask(self._url, seed=seed, **SHORT).status_code)

    def leave(self) -> None:
        """Until all are answered."""
        self._is_enough.set()
        for thread in self._threads:
            thread.join()


def scaled(server: Server) -> list[tuple[int, int]]:
    """The changes of the number of workers, the first one first."""
    told = httpx2.get(f"{server.url}/v1/admin/decisions?kind=scale", timeout=30).json()["data"]
    return [(each["from"], each["to"]) for each in reversed(told) if each["why"].startswith("work for ")]


def wait_until(is_so: Callable[[], bool], what: str) -> None:
    """Look now and then."""
    limit = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < limit, f"{what}: not within {PATIENCE_S:g} s"
        time.sleep(0.5)


def test_a_second_worker_comes_while_jobs_wait_and_goes_when_there_are_none(served: Server) -> None:
    """Every request is answered."""
    ask(served.url, **SHORT)  # what a job takes is known then, and a worker gets no more of them than it has room for
    assert len(replicas_of(served, "workers")) == 1
    crowd = Crowd(served.url)
    try:
        wait_until(lambda: scaled(served) == [(1, 2)], "a second worker was asked for")
        wait_until(lambda: len(replicas_of(served, "workers")) == 2, "a second worker has begun")
    finally:
        crowd.leave()
    assert len(crowd.codes) >= AT_ONCE
    assert set(crowd.codes) == {200}
    wait_until(lambda: scaled(served) == [(1, 2), (2, 1)], "the second worker was given up")
    wait_until(lambda: len(replicas_of(served, "workers")) == 1, "the second worker has ended")
