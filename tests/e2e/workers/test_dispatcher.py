"""Two gateways and two shared workers: one dispatcher places the jobs of both, and nobody needs it to live."""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path

import httpx2
import numpy as np
import pytest

from tests.support.e2e.dispatchers import Look, Placed, gateways_of, looking, wait_for
from tests.support.e2e.images import PROMPT, pixels
from tests.support.e2e.servers import Server, replicas_of, running

# A server of its own; tests/serving/coordinator/test_dispatcher_link.py is quick.
pytestmark = [pytest.mark.ray, pytest.mark.long]
SHARED = "{text_encoder: {placement: shared}, backbone: {placement: shared}, vae: {placement: shared}}"
CONFIG = f"""
server: {{host: 127.0.0.1, port: 8000, gateways: 1}}
models:
  one: {{path: "builtin:lego-tiny", max_sequence_length: 0, nodes: {SHARED}}}
workers: {{replicas: {{min: 2, max: 2}}, cpus: 0.4, max_bytes: 60000000}}
workflows: [one.yaml]
"""
STEPS = 60
EACH = 4  # requests of each gateway


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Look]]:
    """The server, and somebody who looks into its dispatcher."""
    folder = tmp_path_factory.mktemp("dispatcher")
    own = (resources.files("lego_serve") / "workflows" / "lego-tiny.yaml").read_text()
    (folder / "one.yaml").write_text(own.replace("lego-tiny", "one"))
    with running(folder, 2, text=CONFIG) as server, looking(server) as look:
        asked(list(gateways_of(server).values()), 1, 2)  # each gateway knows what a job takes
        wait_for(look, lambda seen: len(seen) == 2)  # the first look takes long
        yield server, look


class Asking:
    """Requests in threads of their own, the same number through the socket of each gateway."""

    def __init__(self, sockets: Sequence[Path], each: int, steps: int) -> None:
        self.answers: dict[Path, list[httpx2.Response | None]] = {socket: [] for socket in sockets}
        self._threads = [
            threading.Thread(target=self._ask, args=(socket, steps)) for socket in sockets for _ in range(each)
        ]
        for thread in self._threads:
            thread.start()

    def _ask(self, socket: Path, steps: int) -> None:
        request = {"model": "one", "prompt": PROMPT, "num_inference_steps": steps, "seed": 3, "n": 4}
        try:
            with httpx2.Client(transport=httpx2.HTTPTransport(uds=str(socket)), timeout=300) as client:
                answer = client.post("http://gateway/v1/images/generations", json=request)
        except httpx2.TransportError:
            answer = None  # its gateway was killed
        self.answers[socket].append(answer)

    @property
    def is_running(self) -> bool:
        """Whether any has not ended yet."""
        return any(thread.is_alive() for thread in self._threads)

    def join(self) -> None:
        """Until all have ended, however."""
        for thread in self._threads:
            thread.join()

    def images(self, socket: Path) -> list[np.ndarray]:
        """Those of a gateway, all of which ended well."""
        found = []
        for answer in self.answers[socket]:
            assert answer is not None
            assert answer.status_code == 200, answer.text
            found.append(pixels(answer.json()["data"][0]))
        return found


def asked(sockets: Sequence[Path], each: int, steps: int) -> list[np.ndarray]:
    """The images of requests through each gateway."""
    asking = Asking(sockets, each, steps)
    asking.join()
    return [image for socket in sockets for image in asking.images(socket)]


def jobs(placed: Placed) -> int:
    """How many it knows."""
    return sum(len(those) for those in placed.values())


def watched(look: Look, asking: Asking) -> dict[tuple[str, str], str]:
    """The worker that each job of each gateway had last, while they were asked for."""
    seen: dict[tuple[str, str], str] = {}
    while asking.is_running:
        for gateway, those in (look.placed() or {}).items():
            seen |= {(gateway, job): worker for job, worker in those.items() if worker}
        time.sleep(0.05)
    return seen


def are_both_asked(placed: Placed) -> bool:
    """Whether two gateways have two jobs at least."""
    return sum(len(those) >= 2 for those in placed.values()) == 2


def test_the_jobs_of_both_gateways_are_spread_over_the_workers_by_one_dispatcher(served: tuple[Server, Look]) -> None:
    """Each worker gets its part of all; what has ended is forgotten."""
    server, look = served
    sockets = list(gateways_of(server).values())
    asking = Asking(sockets, EACH, STEPS)
    placed = watched(look, asking)
    assert sorted(Counter(gateway for gateway, _ in placed).values()) == [EACH, EACH]
    spread = Counter(placed.values())
    assert len(spread) == 2
    assert min(spread.values()) >= EACH - 1
    images = [image for socket in sockets for image in asking.images(socket)]
    assert len(images) == 2 * EACH
    assert all(np.array_equal(image, images[0]) for image in images)
    wait_for(look, lambda seen: jobs(seen) == 0)


def test_every_request_completes_where_the_dispatcher_is_killed_and_it_comes_back(served: tuple[Server, Look]) -> None:
    """It is told again what is in flight, and it is said when it was gone."""
    server, look = served
    sockets = list(gateways_of(server).values())
    wanted = asked(sockets[:1], 1, STEPS)[0]
    asking = Asking(sockets, EACH, STEPS)
    wait_for(look, are_both_asked)
    [dispatcher] = replicas_of(server, "CellDispatcher")
    os.kill(dispatcher, signal.SIGKILL)
    more = Asking(sockets, 1, STEPS)
    for each in (asking, more):
        each.join()
        images = [image for socket in sockets for image in each.images(socket)]
        assert all(np.array_equal(image, wanted) for image in images)
    wait_for(look, lambda seen: len(seen) == 2 and jobs(seen) == 0)
    assert [dispatcher] != replicas_of(server, "CellDispatcher")
    told = httpx2.get(f"{server.url}/v1/admin/decisions?kind=dispatcher", timeout=30).json()["data"]
    assert any("does not answer" in each["why"] for each in told)
    again = Asking(sockets, 1, STEPS)
    assert len(watched(look, again)) == 2


def test_the_jobs_of_a_gateway_that_is_killed_leave_the_dispatcher(served: tuple[Server, Look]) -> None:
    """Those of the other one complete."""
    server, look = served
    killed, other = sorted(gateways_of(server).items())
    asking = Asking([killed[1], other[1]], EACH, STEPS)
    before = wait_for(look, are_both_asked)
    os.kill(killed[0], signal.SIGKILL)
    after = wait_for(look, lambda seen: len(seen.keys() & before.keys()) == 1)
    [name] = after.keys() & before.keys()
    assert jobs(after) == len(after[name])
    asking.join()
    assert len(asking.images(other[1])) == EACH
    wait_for(look, lambda seen: jobs(seen) == 0)
