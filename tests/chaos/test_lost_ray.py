"""Ray itself dies.  The server outlives it: 503 within seconds, another Ray, and jobs that go on from the store."""

import os
import signal
import time
from pathlib import Path

import httpx2
import numpy as np
import pytest

from lego_serve.process.tree import command_of, descendants
from tests.support.chaos.figures import note
from tests.support.e2e.images import PROMPT, pixels
from tests.support.e2e.servers import Server, wait_for_two

pytestmark = [pytest.mark.ray, pytest.mark.alone]
STEPS, IMAGES = 100, 4  # long enough to be in the middle when Ray goes
BACK_S = 240.0  # some 20 s on an idle machine


def process_of(server: Server, name: str) -> int:
    """The process of this name, or the one that runs this module."""
    pids = descendants(server.process.pid)
    [found] = [pid for pid in pids if command_of(pid) == name or name in words_of(pid)]
    return found


def words_of(pid: int) -> list[str]:
    """The command line of a process."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return []


def ready_status(server: Server) -> int:
    """What the health check says; 0 where nobody answers."""
    try:
        return httpx2.get(f"{server.url}/health/ready", timeout=5).status_code
    except httpx2.TransportError:
        return 0


def submit(server: Server, **body: object) -> str:
    """A durable job."""
    wanted = {"prompt": PROMPT, "num_inference_steps": STEPS, "n": IMAGES, "seed": 3} | body
    answer = httpx2.post(
        f"{server.url}/v1/images/generations", json=wanted, headers={"Prefer": "respond-async"}, timeout=30
    )
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def images_of(server: Server, job: str, patience_s: float) -> np.ndarray:
    """The images of a durable job, once it has ended well."""
    limit = time.monotonic() + patience_s
    while time.monotonic() < limit:
        try:
            answer = httpx2.get(f"{server.url}/v1/jobs/{job}", timeout=30)
        except httpx2.TransportError:
            continue
        if answer.status_code == 200 and answer.json()["status"] not in ("queued", "in_progress"):
            assert answer.json()["status"] == "completed", answer.text
            result = httpx2.get(f"{server.url}/v1/jobs/{job}/result", timeout=30)
            assert result.status_code == 200, result.text
            return np.stack([pixels(image) for image in result.json()["data"]])
        time.sleep(0.2)
    pytest.fail(f"job {job} did not end within {patience_s:g} s")


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("raylet", signal.SIGKILL),
        pytest.param("gcs_server", signal.SIGKILL, marks=pytest.mark.chaos),
        pytest.param("raylet", signal.SIGSTOP, marks=pytest.mark.chaos),
        pytest.param("lego_serve.supervision.cluster_process", signal.SIGKILL, marks=pytest.mark.chaos),
    ],
)
def test_the_server_outlives_ray_and_its_jobs_go_on(crashes: Server, name: str, number: signal.Signals) -> None:
    """Readiness goes back within seconds, what is asked meanwhile gets 503 with Retry-After, and then all is well.

    The job that was running has the bits that it would have had.
    """
    wait_for_two(crashes)
    wanted = images_of(crashes, submit(crashes), 120)
    job = submit(crashes)
    time.sleep(1.5)
    os.kill(process_of(crashes, name), number)
    killed = time.monotonic()
    seen: list[tuple[float, int]] = []
    refusals = []
    while time.monotonic() - killed < BACK_S:
        status = ready_status(crashes)
        seen.append((time.monotonic() - killed, status))
        if status == 503:
            answer = httpx2.post(f"{crashes.url}/v1/images/generations", json={"prompt": "a"}, timeout=30)
            refusals.append(answer)
        elif status == 200 and refusals:
            break
        time.sleep(0.2)
    noticed_s = next(at_s for at_s, status in seen if status == 503)
    back_s = seen[-1][0]
    note("lost Ray", f"{number.name} to {name}", not_ready_after_s=noticed_s, ready_again_after_s=back_s)
    assert seen[-1][1] == 200, seen[-5:]
    # Without a GCS requests are answered until other gateways listen; a Ray that is silent may come back.
    assert noticed_s < (10 if (name, number) == ("raylet", signal.SIGKILL) else 60)
    assert {status for _, status in seen} <= {200, 503}, "somebody found nobody there"
    refused = [answer for answer in refusals if answer.status_code != 200]
    assert refused
    assert {answer.status_code for answer in refused} == {503}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert np.array_equal(images_of(crashes, job, 120), wanted)


def test_nothing_of_the_ray_that_was_lost_is_left(crashes: Server) -> None:
    """One raylet, one GCS, one folder: the others have been cleared away."""
    names = [command_of(pid) for pid in descendants(crashes.process.pid)]
    assert (names.count("raylet"), names.count("gcs_server")) == (1, 1), names
