"""What many listeners of one tenant, and one that reads nothing, cost a gateway."""

import asyncio
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from lego_serve.core.durable_jobs.store import JobPage, JobQuery
from lego_serve.errors import StoreUnavailable
from lego_serve.gateway.compat.comfyui.listener import MOST_WAITING, TRY_AGAIN, Listener, Looks
from lego_serve.gateway.compat.comfyui.prompts import Accepted, Prompts
from lego_serve.gateway.transport.draining import Draining


class SlowPrompts:
    """The prompts of a store that answers when it is let; ``looks`` are the tenants it was asked for."""

    def __init__(self) -> None:
        self.accepted = Accepted()
        self.goes_on = asyncio.Event()
        self.looks: list[str] = []
        self.is_away = False

    async def open(self, tenant: str) -> tuple[list[Any], list[Any]]:
        """None."""
        self.looks.append(tenant)
        await self.goes_on.wait()
        if self.is_away:
            raise StoreUnavailable("The store does not answer.")
        return [], []

    async def latest(self, tenant: str, count: int) -> list[Any]:
        """None."""
        return []


class StuckSocket:
    """A WebSocket whose client sends nothing and reads nothing."""

    def __init__(self) -> None:
        self.query_params: dict[str, str] = {}
        self.closed: int | None = None

    async def send_text(self, text: str) -> None:
        """For ever."""
        await asyncio.Event().wait()

    async def receive(self) -> Any:
        """Never."""
        await asyncio.Event().wait()

    async def close(self, code: int) -> None:
        """Note the code."""
        self.closed = code


async def start(looks: Looks, count: int, tenant: str = "shop") -> list["asyncio.Task[Any]"]:
    """So many listeners that look again at once."""
    tasks = [asyncio.ensure_future(looks.look_again(tenant)) for _ in range(count)]
    for _ in range(3):
        await asyncio.sleep(0)
    return tasks


async def test_all_listeners_of_a_tenant_look_once_for_a_prompt() -> None:
    """Each tenant's once; and once more for one that was accepted while they looked, which they may have missed."""
    prompts: Any = SlowPrompts()
    looks = Looks(prompts)
    prompts.accepted.add()
    waiting = await start(looks, 50) + await start(looks, 50, "press")
    assert sorted(prompts.looks) == ["press", "shop"]
    prompts.accepted.add()
    late = await start(looks, 50)
    assert len(prompts.looks) == 2
    prompts.goes_on.set()
    await asyncio.gather(*waiting, *late)
    assert sorted(prompts.looks) == ["press", "shop", "shop"]
    assert looks._under_way == {}


async def test_a_listener_that_leaves_takes_the_look_from_nobody() -> None:
    """The others have what it began."""
    prompts: Any = SlowPrompts()
    looks = Looks(prompts)
    first, *others = await start(looks, 5)
    first.cancel()
    await asyncio.sleep(0)
    prompts.goes_on.set()
    assert len(await asyncio.gather(*others)) == 4
    assert prompts.looks == ["shop"]


async def test_a_store_that_is_away_is_told_to_all_and_asked_again_later() -> None:
    """By one question, not by one of each."""
    prompts: Any = SlowPrompts()
    looks = Looks(prompts)
    prompts.is_away = True
    waiting = await start(looks, 20)
    prompts.goes_on.set()
    ends = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(end) for end in ends} == {StoreUnavailable}
    assert prompts.looks == ["shop"]
    prompts.is_away = False
    await looks.look_again("shop")
    assert prompts.looks == ["shop", "shop"]


async def test_one_that_reads_nothing_is_to_begin_anew() -> None:
    """What waits for it is bounded: it is closed by the code of no room, and finds its prompts when it comes back."""
    prompts: Any = SlowPrompts()
    prompts.goes_on.set()
    there: Any = StuckSocket()
    context: Any = SimpleNamespace(draining=Draining())
    listener = Listener(context, Looks(prompts), "shop", there)
    running = asyncio.ensure_future(listener.run([]))
    await asyncio.sleep(0.01)
    for _ in range(MOST_WAITING // 2):
        listener._send({"type": "status"})
    await asyncio.sleep(0.01)
    assert not running.done()
    for _ in range(2 * MOST_WAITING):
        listener._send({"type": "status"})
    async with asyncio.timeout(60):
        await running
    assert listener._waiting.qsize() == MOST_WAITING
    assert there.closed == TRY_AGAIN


@pytest.mark.parametrize("begun", [True, False])
async def test_a_listener_that_ends_itself_is_closed_by_no_code_of_ours(begun: bool) -> None:
    """Only one that stops with its server, or that is behind."""
    prompts: Any = SlowPrompts()
    there: Any = StuckSocket()
    draining = Draining()
    if begun:
        draining.begin()
    listener = Listener(SimpleNamespace(draining=draining), Looks(prompts), "shop", there)  # type: ignore[arg-type]
    there.receive = lambda: asyncio.sleep(0, {"type": "websocket.disconnect"})
    async with asyncio.timeout(60):
        await listener.run([])
    assert there.closed == (1012 if begun else None)


class EmptyQueue:
    """Durable jobs of which none is open; it notes what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[JobQuery] = []

    async def page(self, query: JobQuery) -> JobPage:
        """None, a little later."""
        self.asked.append(query)
        await asyncio.sleep(0.01)
        return JobPage((), has_more=False)


async def test_all_listeners_that_hear_of_an_end_count_what_is_left_once() -> None:
    """Those of each tenant: two pages, of what runs and of what waits; who asks later has another look."""
    queue: Any = EmptyQueue()
    prompts = Prompts(queue)
    every = [prompts.remaining(tenant) for tenant in ("shop", "press") for _ in range(50)]
    assert set(await asyncio.gather(*every)) == {0}
    assert Counter(query.tenant for query in queue.asked) == {"shop": 2, "press": 2}
    await prompts.remaining("shop")
    assert Counter(query.tenant for query in queue.asked) == {"shop": 4, "press": 2}
