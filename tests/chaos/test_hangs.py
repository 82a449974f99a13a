"""A replica that is stopped, not dead, is left within ten seconds, replaced, and costs no request and no bit.

SIGSTOP stands for whatever hangs: a wedged driver, a machine that swaps, a link that is down.
"""

import os
import random
import time

import httpx2
import numpy as np
import pytest

from tests.support.chaos.faults import stopped
from tests.support.chaos.figures import note
from tests.support.e2e.asked import Asked, undisturbed_images
from tests.support.e2e.images import PROMPT
from tests.support.e2e.servers import Server, backbones, replicas_of, wait_for_death, wait_for_two

pytestmark = [pytest.mark.ray, pytest.mark.alone]
STOPS = int(os.environ.get("LEGO_CHAOS_STOPS", "1"))
LONGEST_S = 10.0  # that a request may take beyond those that nothing happened to
REPLACED_S = 90.0  # until a stopped process has been ended: some 40 s on a quiet machine


@pytest.fixture(scope="module")
def undisturbed(crashes: Server) -> dict[int, np.ndarray]:
    """The images of SEEDS when nothing happens."""
    return undisturbed_images(crashes.url)


def test_requests_of_a_stopped_backbone_go_on_at_the_other(crashes: Server, undisturbed: dict[int, np.ndarray]) -> None:
    """At random moments: every image has its bits, and none took more than ten seconds longer than undisturbed."""
    rng = random.Random(5)
    for _ in range(STOPS):
        wait_for_two(crashes)
        Asked(crashes.url, num_inference_steps=5).wait()  # the first stream of a new replica starts late
        usual_s = Asked(crashes.url).wait()
        asked = Asked(crashes.url)
        time.sleep(0.3 + rng.random() * usual_s / 2)
        with stopped(rng.choice(backbones(crashes))):
            slowest_s = asked.wait()
        asked.check(undisturbed)
        note("hangs", "SIGSTOP of one of two backbones", usual_s=usual_s, slowest_s=slowest_s)
        assert slowest_s <= usual_s + LONGEST_S
    assert "lego_serve_requests_in_flight 0.0" in httpx2.get(f"{crashes.url}/metrics", timeout=10).text


@pytest.mark.long
def test_a_backbone_that_stays_stopped_is_replaced(crashes: Server) -> None:
    """Its process is ended, another one starts, and meanwhile requests are answered by the one that is left."""
    wait_for_two(crashes)
    victim = backbones(crashes)[0]
    started = time.monotonic()
    with stopped(victim):
        asked = Asked(crashes.url)
        asked.wait()
        assert {answer.status_code for answer in asked.answers.values()} == {200}
        wait_for_death(victim, REPLACED_S)
        note("hangs", "a stopped backbone's process is ended", after_s=time.monotonic() - started)
    wait_for_two(crashes)


@pytest.mark.long
@pytest.mark.parametrize("component", ["vae", "text_encoder"])
def test_requests_of_the_only_vae_or_text_encoder_wait_for_its_successor(crashes: Server, component: str) -> None:
    """Nobody else can take them: they are answered once it has been replaced, and none is lost."""
    [victim] = replicas_of(crashes, component)
    with stopped(victim):
        asked = Asked(crashes.url, num_inference_steps=5, prompt=PROMPT + " " * (1 + int(time.time()) % 1000))
        slowest_s = asked.wait()
        note("hangs", f"SIGSTOP of the only {component}", slowest_s=slowest_s)
        assert {answer.status_code for answer in asked.answers.values()} == {200}
        wait_for_death(victim, REPLACED_S)  # Ray asks it to end for 5 s, in which its successor may answer
    assert victim not in replicas_of(crashes, component)
