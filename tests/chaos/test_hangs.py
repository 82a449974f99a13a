"""A replica that is stopped, not dead, is left within ten seconds, replaced, and costs no request and no bit.

A stopped gateway is ended and replaced, so that the port gives nobody to it any more.

SIGSTOP stands for whatever hangs: a wedged driver, a machine that swaps, a link that is down.
"""

import os
import random
import time
from pathlib import Path

import httpx2
import numpy as np
import pytest

from lego_serve.process.tree import descendants
from tests.support.chaos.faults import stopped
from tests.support.chaos.figures import note
from tests.support.e2e.asked import Asked, undisturbed_images
from tests.support.e2e.images import PROMPT
from tests.support.e2e.servers import Server, backbones, replicas_of, wait_for_death, wait_for_two

pytestmark = [pytest.mark.ray, pytest.mark.alone]
STOPS = int(os.environ.get("LEGO_CHAOS_STOPS", "1"))
LONGEST_S = 10.0  # that a request may take beyond those that nothing happened to
GATEWAY_S = 60.0  # until a stopped gateway has been ended: the patience and a second or two on a quiet machine
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


def test_a_stopped_gateway_is_ended_and_the_other_takes_its_connections(server: Server) -> None:
    """Of two: its clients see their connections end and not hang, and soon there are two again that answer all."""
    victim, other = gateways_of(server)
    started = time.monotonic()
    with stopped(victim):
        wait_for_death(victim, GATEWAY_S)
    note("hangs", "SIGSTOP of one of two gateways", ended_after_s=time.monotonic() - started)
    for _ in range(20):
        assert httpx2.get(f"{server.url}/health/live", timeout=30).status_code == 200
    while len(now := gateways_of(server)) < 2:
        assert time.monotonic() - started < 2 * GATEWAY_S
        time.sleep(0.1)
    assert other in now
    assert victim not in now


def gateways_of(server: Server) -> list[int]:
    """The gateway processes of a server."""
    return [pid for pid in descendants(server.process.pid) if "lego_serve.gateway_process" in words_of(pid)]


def words_of(pid: int) -> list[str]:
    """The command line of a process; nothing where it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return []
