"""kill -9 of any one replica at any moment: every request is answered, with the bits it would have had."""

import os
import random
import signal
import time

import httpx2
import numpy as np
import pytest

from lego_serve.core.scheduling.retry import RETRIES_A_REQUEST, RETRIES_A_SECOND, RETRIES_AT_ONCE
from tests.support.chaos.books import check_books, retries
from tests.support.chaos.figures import note
from tests.support.e2e.asked import Asked, undisturbed_images
from tests.support.e2e.images import PROMPT
from tests.support.e2e.servers import Server, replicas_of, wait_for_death, wait_for_two

pytestmark = [pytest.mark.ray, pytest.mark.alone]
KILLS = int(os.environ.get("LEGO_CHAOS_KILLS", "1"))
SLACK = float(os.environ.get("LEGO_CHAOS_SLACK", "4"))  # where others share the processors
ONLY_ONE_S = 20.0  # beyond undisturbed, where the only replica was killed; docs/reliability.md has what it takes
TWO_S = 10.0  # where there is another
CALLS = {"text_encoder": 2, "backbone": 1, "vae": 1}  # of a request
TRIES = 2  # of each, at most, after the first: its replica dies, and another may not be known for dead yet


@pytest.fixture(scope="module")
def undisturbed(crashes: Server) -> dict[int, np.ndarray]:
    """The images of SEEDS when nothing happens."""
    return undisturbed_images(crashes.url)


@pytest.mark.parametrize(
    "component", ["vae", "text_encoder", pytest.param("backbone", marks=pytest.mark.chaos)]
)  # test_recovery kills backbones too
def test_a_killed_replica_of_any_kind_costs_no_request_and_no_bit(
    crashes: Server, undisturbed: dict[int, np.ndarray], component: str
) -> None:
    """At random moments, prompts that are in no cache among them; the replica is replaced each time.

    Calls that are lost are made again, each but a few times, and no more than the retry budget allows.
    """
    rng = random.Random(1)
    for kill in range(KILLS):
        wait_for_two(crashes)
        usual_s = Asked(crashes.url, num_inference_steps=30).wait()
        # A blank more or less is a prompt of its own, with the same tokens.
        asked = Asked(crashes.url) if component != "text_encoder" else None
        if asked is not None:
            time.sleep(rng.random() * usual_s)
        victim, before = rng.choice(replicas_of(crashes, component)), retries(crashes.url)
        os.kill(victim, signal.SIGKILL)
        if asked is None:
            asked = Asked(crashes.url, prompt=PROMPT + " " * (kill + 1 + int(time.time()) % 1000))
        slowest_s = asked.wait()
        wait_for_death(victim)
        if component == "text_encoder":
            assert {answer.status_code for answer in asked.answers.values()} == {200}
        else:
            asked.check(undisturbed)
        repeated = retries(crashes.url) - before
        note("crashes", f"kill -9 of a {component}", usual_s=2 * usual_s, slowest_s=slowest_s, retries=repeated)
        allowed = RETRIES_AT_ONCE + RETRIES_A_REQUEST * len(asked.answers) + RETRIES_A_SECOND * slowest_s
        assert repeated <= min(allowed, TRIES * CALLS[component] * len(asked.answers))
        assert slowest_s <= 2 * usual_s + SLACK * (TWO_S if component == "backbone" else ONLY_ONE_S)
    check_books(crashes.url)


@pytest.mark.parametrize("kind", ["ServeController"])
def test_serves_controller_is_not_missed(crashes: Server, undisturbed: dict[int, np.ndarray], kind: str) -> None:
    """It is in no request's way; Ray starts another."""
    wait_for_two(crashes)
    asked = Asked(crashes.url)
    time.sleep(0.3)
    [controller] = replicas_of(crashes, kind)
    os.kill(controller, signal.SIGKILL)
    slowest_s = asked.wait()
    asked.check(undisturbed)
    note("crashes", "kill -9 of Serve's controller", slowest_s=slowest_s)
    assert httpx2.get(f"{crashes.url}/health/ready", timeout=10).status_code == 200
