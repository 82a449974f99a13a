"""Replicas that die, drain or are killed by a request: every innocent request gets its image, bit for bit."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx2
import numpy as np
import pytest

from lego_serve.cli.demo import descendants
from lego_serve.core.jobs.recovery import MARGIN_STEPS
from tests.e2e.faults.sitecustomize import DEADLY_GUIDANCE, STEPS_LOG
from tests.e2e.test_server import pixels
from tests.support.servers import Server, running

pytestmark = pytest.mark.ray
PROMPT = "a large red circle on the left, blue background"
KILLS = int(os.environ.get("LEGO_CHAOS_KILLS", "2"))
SEEDS = range(10, 18)
STEPS = 60
CHECKPOINT_EVERY_STEPS = 5


@pytest.fixture(scope="module")
def steps_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server writes down the steps it begins."""
    return tmp_path_factory.mktemp("steps") / "steps.log"


@pytest.fixture(scope="module")
def deadly(tmp_path_factory: pytest.TempPathFactory, steps_log: Path) -> Iterator[Server]:
    """A server of two backbone replicas that a certain request kills."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv(STEPS_LOG, str(steps_log))
        with running(tmp_path_factory.mktemp("deadly"), 1, Path(__file__).parent / "faults") as started:
            yield started


@pytest.fixture(scope="module")
def undisturbed(deadly: Server) -> dict[int, np.ndarray]:
    """The images of SEEDS when nothing happens."""
    return {seed: pixels(ask(deadly.url, seed=seed).json()["data"][0]) for seed in SEEDS}


def ask(url: str, **body: object) -> httpx2.Response:
    """One generation, however it ends."""
    body = {"prompt": PROMPT, "num_inference_steps": STEPS} | body
    return httpx2.post(f"{url}/v1/images/generations", json=body, timeout=300)


class Asked:
    """Requests of all SEEDS at once, from threads."""

    def __init__(self, url: str, **body: object) -> None:
        self.answers: dict[int, httpx2.Response] = {}

        def one(seed: int) -> None:
            self.answers[seed] = ask(url, seed=seed, **body)

        self._threads = [threading.Thread(target=one, args=(seed,)) for seed in SEEDS]
        for thread in self._threads:
            thread.start()

    def check(self, wanted: dict[int, np.ndarray]) -> int:
        """Wait for all; every image is the one wanted.  Answers the steps that are known to have been made twice."""
        for thread in self._threads:
            thread.join()
        for seed, answer in self.answers.items():
            assert answer.status_code == 200, answer.text
            assert np.array_equal(pixels(answer.json()["data"][0]), wanted[seed]), seed
        return sum(answer.json()["lego"]["steps_redone"] for answer in self.answers.values())


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
    found = []
    for pid in descendants(server.process.pid):
        try:
            title = Path(f"/proc/{pid}/cmdline").read_text()
        except OSError:
            continue
        if title.startswith("ray::") and "backbone" in title:
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


def drained_once_all_answer(server: Server, replica: str) -> httpx2.Response:
    """The answer to a drain, which is 503 ``replica_lost`` for as long as one that may live cannot be asked."""
    limit = time.monotonic() + 120
    while True:
        answer = httpx2.post(f"{server.url}/v1/admin/replicas/{replica}/drain", timeout=30)
        if answer.status_code != 503 or time.monotonic() > limit:
            return answer
        time.sleep(0.5)


def test_killed_replicas_cost_steps_but_no_request_and_no_bit(
    deadly: Server, undisturbed: dict[int, np.ndarray], steps_log: Path
) -> None:
    """kill -9 of a random backbone replica in the middle of the work, again and again.

    By what the replicas wrote down, a lane makes those steps twice that lie between two checkpoints, and those
    its last one was late by; an answer claims no more of them than there were.
    """
    rng = random.Random(0)
    for _ in range(KILLS):
        wait_for_two(deadly)
        before = steps_log.stat().st_size
        asked = Asked(deadly.url)
        time.sleep(0.5 + rng.random())
        os.kill(rng.choice(backbones(deadly)), signal.SIGKILL)
        known = asked.check(undisturbed)
        steps = begun(steps_log, before)
        assert all(sorted(counted) == list(range(STEPS)) for counted in steps.values())
        redone = {seed: counted.total() - STEPS for seed, counted in steps.items()}
        assert max(redone.values()) <= CHECKPOINT_EVERY_STEPS + MARGIN_STEPS, redone
        assert known <= sum(redone.values())
    assert "lego_serve_requests_in_flight 0.0" in httpx2.get(f"{deadly.url}/metrics", timeout=10).text


def test_a_drained_replicas_lanes_go_on_elsewhere_without_losing_a_step(
    deadly: Server, undisturbed: dict[int, np.ndarray]
) -> None:
    """``lego-serve drain`` moves them from fresh checkpoints, and the replica is replaced by another."""
    wait_for_two(deadly)
    before = [c["id"] for c in httpx2.get(f"{deadly.url}/v1/admin/replicas").json()["data"]]
    asked = Asked(deadly.url)
    time.sleep(1)
    command = [sys.executable, "-m", "lego_serve.cli.main", "drain", before[0], "--url", deadly.url]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "calls moved" in done.stdout
    assert asked.check(undisturbed) == 0
    limit = time.monotonic() + 120
    while time.monotonic() < limit:
        now = [c["id"] for c in httpx2.get(f"{deadly.url}/v1/admin/replicas", timeout=30).json()["data"]]
        if len(now) == 2 and before[0] not in now:
            return
        time.sleep(0.5)
    pytest.fail("the drained replica was not replaced within two minutes")


def test_an_unknown_replica_cannot_be_drained(deadly: Server) -> None:
    """404, and the command line says so; asked again as long as the answer is that not all could be asked."""
    wait_for_two(deadly)
    answer = drained_once_all_answer(deadly, "nobody")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "replica_not_found")
    command = [sys.executable, "-m", "lego_serve.cli.main", "drain", "nobody", "--url", deadly.url]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert said.returncode == 1
    assert "There is no backbone replica of this id." in said.stderr


def test_a_request_that_kills_replicas_is_refused_and_its_mates_are_not(
    deadly: Server, undisturbed: dict[int, np.ndarray]
) -> None:
    """It ends as 400 ``poison_request``; those who ran beside it get their images."""
    wait_for_two(deadly)
    asked = Asked(deadly.url)
    poison = ask(deadly.url, guidance_scale=DEADLY_GUIDANCE, seed=1)
    assert (poison.status_code, poison.json()["error"]["code"]) == (400, "poison_request")
    asked.check(undisturbed)
