"""What counts as the loss of a Ray, for one that was started here and for one that was joined."""

import asyncio
import os
import signal
import subprocess

import pytest

from lego_serve.process.signals import StopSignal
from lego_serve.serving.cluster import connect
from lego_serve.supervision import cluster_process


class Silent:
    """A Ray that does not answer."""

    is_reachable = False

    async def watch(self) -> None:
        """For ever."""
        await asyncio.Event().wait()


@pytest.fixture(autouse=True)
def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Ray answers, and one looks often."""
    monkeypatch.setattr(connect, "Reachability", Silent)
    monkeypatch.setattr(cluster_process, "LOOK_S", 0.01)


async def test_a_silent_ray_of_our_own_is_lost() -> None:
    """Its processes live, and do nothing."""
    assert await cluster_process._watch(StopSignal(), {os.getpid(): "raylet"}) == cluster_process.NO_ANSWER


async def test_a_process_of_our_own_ray_that_ends_is_lost_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the rest of it does."""
    monkeypatch.setattr(Silent, "is_reachable", True)
    with subprocess.Popen(["sleep", "600"]) as raylet:
        watching = asyncio.ensure_future(cluster_process._watch(StopSignal(), {raylet.pid: "raylet"}))
        await asyncio.sleep(0.05)
        assert not watching.done()
        raylet.kill()
    assert await watching == "raylet"


async def test_a_ray_that_was_joined_may_be_silent_until_a_stop() -> None:
    """It is not ours to start again."""
    stopping = StopSignal()
    watching = asyncio.ensure_future(cluster_process._watch(stopping, {}))
    await asyncio.sleep(0.05)
    assert not watching.done()
    stopping._note(signal.SIGTERM, None)
    assert await watching == ""
