"""Replicas that die, drain or are killed by a request: every innocent request gets its image, bit for bit."""

import os
import random
import secrets
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx2
import numpy as np
import pytest

from lego_serve.core.jobs.recovery import MARGIN_STEPS
from lego_serve.core.scheduling.retry import DEATHS_ALONE
from tests.support.e2e.asked import STEPS, Asked, ask, undisturbed_images
from tests.support.e2e.faults.sitecustomize import DEADLY_GUIDANCE, DEADLY_SIZE, DEADLY_WORD, DEATHS_END
from tests.support.e2e.images import PROMPT, pixels
from tests.support.e2e.servers import SEEDS, Server, backbones, begun, replicas_of, wait_for_death, wait_for_two

pytestmark = pytest.mark.ray
KILLS = int(os.environ.get("LEGO_CHAOS_KILLS", "2"))
CHECKPOINT_EVERY_STEPS = 5


@pytest.fixture(scope="module")
def undisturbed(crashes: Server) -> dict[int, np.ndarray]:
    """The images of SEEDS when nothing happens."""
    return undisturbed_images(crashes.url)


def drained_once_all_answer(server: Server, replica: str) -> httpx2.Response:
    """The answer to a drain, which is 503 ``replica_lost`` for as long as one that may live cannot be asked."""
    limit = time.monotonic() + 120
    while True:
        answer = httpx2.post(f"{server.url}/v1/admin/replicas/{replica}/drain", timeout=30)
        if answer.status_code != 503 or time.monotonic() > limit:
            return answer
        time.sleep(0.5)


@pytest.mark.alone
def test_killed_replicas_cost_steps_but_no_request_and_no_bit(
    crashes: Server, undisturbed: dict[int, np.ndarray], steps_log: Path
) -> None:
    """kill -9 of a random backbone replica in the middle of the work, again and again.

    By what the replicas wrote down, a lane makes those steps twice that lie between two checkpoints, and those
    its last one was late by; an answer claims no more of them than there were.
    """
    rng = random.Random(0)
    for _ in range(KILLS):
        wait_for_two(crashes)
        Asked(crashes.url, num_inference_steps=5).wait()  # the first stream of a new replica starts late
        before = steps_log.stat().st_size
        asked = Asked(crashes.url)
        time.sleep(0.5 + rng.random())
        os.kill(rng.choice(backbones(crashes)), signal.SIGKILL)
        known = asked.check(undisturbed)
        steps = begun(steps_log, before)
        assert all(sorted(counted) == list(range(STEPS)) for counted in steps.values())
        redone = {seed: counted.total() - STEPS for seed, counted in steps.items()}
        assert max(redone.values()) <= CHECKPOINT_EVERY_STEPS + MARGIN_STEPS, redone
        assert known <= sum(redone.values())
    assert "lego_serve_requests_in_flight 0.0" in httpx2.get(f"{crashes.url}/metrics", timeout=10).text


def test_a_drained_replicas_lanes_go_on_elsewhere_without_losing_a_step(
    crashes: Server, undisturbed: dict[int, np.ndarray]
) -> None:
    """``lego-serve drain`` moves them from fresh checkpoints, and the replica is replaced by another."""
    wait_for_two(crashes)
    before = [c["id"] for c in httpx2.get(f"{crashes.url}/v1/admin/replicas").json()["data"]]
    asked = Asked(crashes.url)
    time.sleep(1)
    command = [sys.executable, "-m", "lego_serve.cli.main", "drain", before[0], "--url", crashes.url]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "calls moved" in done.stdout
    assert asked.check(undisturbed) == 0
    limit = time.monotonic() + 120
    while time.monotonic() < limit:
        now = [c["id"] for c in httpx2.get(f"{crashes.url}/v1/admin/replicas", timeout=30).json()["data"]]
        if len(now) == 2 and before[0] not in now:
            return
        time.sleep(0.5)
    pytest.fail("the drained replica was not replaced within two minutes")


def test_an_unknown_replica_cannot_be_drained(crashes: Server) -> None:
    """404, and the command line says so; asked again as long as the answer is that not all could be asked."""
    wait_for_two(crashes)
    answer = drained_once_all_answer(crashes, "nobody")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "replica_not_found")
    command = [sys.executable, "-m", "lego_serve.cli.main", "drain", "nobody", "--url", crashes.url]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "There is no backbone replica of this id." in result.stderr


def deaths(steps_log: Path) -> int:
    """How many replicas deadly requests have ended so far."""
    file = Path(f"{steps_log}{DEATHS_END}")
    return len(file.read_text().splitlines()) if file.exists() else 0


@pytest.mark.parametrize(
    "poison",
    [
        {"guidance_scale": DEADLY_GUIDANCE},
        {"size": "{}x{}".format(*DEADLY_SIZE), "num_inference_steps": 2},
        {"prompt": f"a {DEADLY_WORD}", "num_inference_steps": 2},
    ],
    ids=["steps", "a decode", "a prompt"],
)
def test_a_request_that_kills_replicas_is_refused_and_its_mates_are_not(
    crashes: Server, undisturbed: dict[int, np.ndarray], steps_log: Path, poison: dict[str, object]
) -> None:
    """It ends as 422 ``poison_request`` after three replicas; those who ran beside it get their images.

    Sent again, with whatever seed, it is refused at once, and no replica dies of it.
    """
    poison = {"prompt": PROMPT, **poison}
    poison["prompt"] = f"{poison['prompt']} {secrets.token_hex(4)}"  # of no earlier try is anything remembered then
    wait_for_two(crashes)
    asked = Asked(crashes.url)
    before = deaths(steps_log)
    refused = ask(crashes.url, seed=1, **poison)
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "poison_request"), refused.text
    asked.check(undisturbed)
    died = deaths(steps_log) - before
    assert DEATHS_ALONE <= died <= DEATHS_ALONE + 1
    for seed in (1, 2):
        again = ask(crashes.url, seed=seed, **poison)
        assert (again.status_code, again.json()["error"]["code"]) == (422, "poison_request")
        assert "minutes more" in again.json()["error"]["message"]
    assert deaths(steps_log) - before == died


def test_inputs_that_die_with_their_maker_before_they_are_read_are_made_again(
    crashes: Server, undisturbed: dict[int, np.ndarray], hold: Path
) -> None:
    """kill -9 of the text encoder once it has answered and before its arrays are read: they are encoded again.

    The image has the bits it would have had, and the job's story tells what happened.
    """
    seed, prompt = SEEDS[0], f"{PROMPT} "  # a prompt of its own is in no cache
    wanted = pixels(ask(crashes.url, seed=seed, prompt=prompt).json()["data"][0])
    assert np.array_equal(wanted, undisturbed[seed])
    hold.touch()
    try:
        answers: list[httpx2.Response] = []
        thread = threading.Thread(target=lambda: answers.append(ask(crashes.url, seed=seed, prompt=prompt)))
        thread.start()
        job = _denoising_job(crashes)
        [encoder] = replicas_of(crashes, "text_encoder")
        os.kill(encoder, signal.SIGKILL)
        wait_for_death(encoder)
        time.sleep(1)  # for Ray to have noticed
    finally:
        hold.unlink()
    thread.join()
    [answer] = answers
    assert answer.status_code == 200, answer.text
    assert np.array_equal(pixels(answer.json()["data"][0]), wanted)
    story = httpx2.get(f"{crashes.url}/v1/admin/jobs/{job}", timeout=30).json()["story"]
    assert any("lost its inputs" in line for line in story), story


def _denoising_job(server: Server) -> str:
    """The only job in flight, once its prompts are encoded and its lanes wait for what they are to read."""
    limit = time.monotonic() + 60
    while time.monotonic() < limit:
        jobs = httpx2.get(f"{server.url}/v1/admin/jobs", timeout=30).json()["data"]
        if jobs and jobs[0]["nodes"]["latents"] == "running":
            return str(jobs[0]["id"])
        time.sleep(0.1)
    pytest.fail("the job did not come to its denoising")
