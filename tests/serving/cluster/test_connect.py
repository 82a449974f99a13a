"""Joining a Ray that is not there yet, and noticing that it is gone."""

import asyncio

import pytest

from lego_serve.serving.cluster import connect as connecting
from lego_serve.serving.cluster.connect import LOST_AFTER_S, Reachability, in_thread, join
from lego_serve.serving.errors import NodeLost
from lego_serve.serving.nodes.options import NodePlace
from tests.support.clocks import HandClock, until

APPS = {("tiny", "vae"): NodePlace("tiny.vae"), ("tiny", "backbone"): NodePlace("tiny.backbone")}


class LateNode:
    """Answers at its third probe."""

    def __init__(self) -> None:
        self.probes = 0

    async def probe(self) -> None:
        """Be lost twice."""
        self.probes += 1
        if self.probes < 3:
            raise NodeLost


async def test_ray_and_its_nodes_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is missing is tried again until it is there."""
    tries = []

    def joining(address: str, apps: object) -> None:
        tries.append(address)
        if len(tries) < 3:
            raise ConnectionError("no Ray")

    monkeypatch.setattr(connecting, "_join", joining)
    monkeypatch.setattr(connecting, "RETRY_PAUSE_S", 0.001)
    nodes = [LateNode(), LateNode()]
    await join(lambda: "auto", APPS, nodes)  # type: ignore[arg-type]
    assert tries == ["auto"] * 3
    assert [node.probes for node in nodes] == [3, 3]


async def test_ray_is_lost_when_its_head_has_been_silent_for_long_and_found_when_it_answers() -> None:
    """A head that is back within half a minute was never lost."""
    clock, answers, looks = HandClock(), [True], 0

    def look() -> bool:
        nonlocal looks
        looks += 1
        if not answers[0]:
            raise ConnectionError("no head")
        return True

    ray = Reachability(look, clock)
    watching = asyncio.ensure_future(ray.watch(pause_s=0.001))

    async def look_again() -> None:
        """Until a look that begins from now on has been taken note of, which is before the next begins."""
        so_far = looks
        await until(lambda: looks >= so_far + 3)

    await look_again()
    answers[0] = False
    await look_again()
    clock.now_s += LOST_AFTER_S - 1
    assert ray.is_reachable
    clock.now_s += 2
    assert not ray.is_reachable
    answers[0] = True
    await look_again()
    assert ray.is_reachable
    watching.cancel()


async def test_an_error_of_a_thread_is_raised_where_it_is_awaited() -> None:
    """And whoever stops waiting is not called back."""

    def fail() -> None:
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        await in_thread(fail)
    assert await in_thread(lambda: 3) == 3
