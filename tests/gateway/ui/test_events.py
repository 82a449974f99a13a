"""The stream of the dashboard: what it sends at first, what it sends later, and to how many."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.errors import CapacityError
from lego_serve.gateway.ui import watch
from lego_serve.gateway.ui.events import changes
from lego_serve.gateway.ui.pump import MOST_LISTENERS, Bell, Pump
from tests.support.gateway.client import Live

Told = tuple[str, str, dict[str, Any]]
CARDS = st.dictionaries(
    st.sampled_from("abcd"), st.fixed_dictionaries({"x": st.integers(0, 3), "age_s": st.floats(0, 9)})
)
STATES = st.fixed_dictionaries(
    {
        "overview": st.fixed_dictionaries({"at": st.floats(0, 9), "counts": st.integers(0, 2)}),
        "replicas": CARDS,
        "requests": CARDS,
        "decisions": CARDS,
    }
)


def applied(state: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    """A state with a patch, as a page does it."""
    result = {**state, "overview": {**state["overview"], **patch.get("overview", {})}}
    for part in ("replicas", "requests", "decisions"):
        cards = dict(state[part])
        for name, fields in patch.get(part, {}).items():
            cards[name] = None if fields is None else {**cards.get(name, {}), **fields}
        result[part] = {name: card for name, card in cards.items() if card is not None}
    return result


def without_clocks(state: dict[str, Any]) -> dict[str, Any]:
    """A state without what rises by itself."""
    parts = {part: {n: c["x"] for n, c in state[part].items()} for part in ("replicas", "requests", "decisions")}
    return parts | {"counts": state["overview"]["counts"]}


@given(STATES, STATES)
def test_a_patch_leads_from_one_state_to_the_other(before: dict[str, Any], now: dict[str, Any]) -> None:
    """Whatever lies between, so that a slow reader may skip it."""
    patch = changes(before, now)
    assert without_clocks(applied(before, patch)) == without_clocks(now)
    assert changes(now, now) == {}


def test_more_than_thirty_two_listeners_are_refused() -> None:
    """Until one leaves."""
    pump = Pump(None, Bell())  # type: ignore[arg-type]  # which is not looked at
    for _ in range(MOST_LISTENERS):
        pump.enter()
    with pytest.raises(CapacityError):
        pump.enter()
    pump.leave()
    pump.enter()


async def test_a_stream_begins_with_everything_and_goes_on_with_changes(looked_at, lively) -> None:
    """A request that comes meanwhile is a row, and then an ended one."""
    lively.step_s = 0.05  # until it has been seen
    with Live(looked_at._transport.app) as url:
        async with httpx2.AsyncClient(base_url=url, timeout=60) as client:
            running: asyncio.Future[httpx2.Response] | None = None
            states: list[str] = []
            async with client.stream("GET", "/v1/admin/events") as answer:
                async for line in answer.aiter_lines():
                    if not line.startswith("data: "):
                        continue
                    data = json.loads(line[6:])
                    if running is None:
                        assert set(data) == {"at", "overview", "models", "replicas", "requests", "decisions", "series"}
                        body = {"prompt": "a", "num_inference_steps": 100, "seed": 1}
                        running = asyncio.ensure_future(client.post("/v1/images/generations", json=body))
                    states += [row["state"] for row in data.get("requests", {}).values() if "state" in row]
                    if "running" in states:
                        lively.step_s = 0.0
                    if "ended" in states:
                        break
            assert running is not None
            assert (await running).status_code == 200
    assert states[-1] == "ended"
    assert "running" in states


async def test_nothing_is_asked_while_nobody_looks(looked_at, lively, monkeypatch) -> None:
    """Replicas are left alone until somebody looks, and after."""
    monkeypatch.setattr(watch, "FRESH_S", 60.0)
    asked = 0
    loads = lively.loads

    async def counted() -> object:
        nonlocal asked
        asked += 1
        return await loads()

    lively.loads = counted
    await looked_at.post("/v1/images/generations", json={"prompt": "a", "num_inference_steps": 2})
    assert asked == 0
    await asyncio.gather(*(looked_at.get("/v1/admin/overview") for _ in range(20)))
    assert asked == 1


async def told(client: httpx2.AsyncClient, path: str = "/v1/admin/events", last_id: str = "") -> AsyncIterator[Told]:
    """The events of a stream: name, id and data."""
    headers = {"last-event-id": last_id} if last_id else {}
    async with client.stream("GET", path, headers=headers) as answer:
        assert answer.status_code == 200
        fields: dict[str, str] = {}
        async for line in answer.aiter_lines():
            name, _, value = line.partition(": ")
            if line:
                fields[name] = value
            else:
                yield fields["event"], fields["id"], json.loads(fields["data"])


async def test_who_comes_back_gets_what_it_missed_alone(looked_at, lively) -> None:
    """By the id of the last event it had; one that nobody remembers, or another gateway's, gives everything."""
    with Live(looked_at._transport.app) as url:
        async with httpx2.AsyncClient(base_url=url, timeout=60) as client:
            stream = told(client)
            name, last_id, snapshot = await anext(stream)
            await stream.aclose()
            assert name == "snapshot"
            await client.post("/v1/images/generations", json={"prompt": "a", "num_inference_steps": 2, "seed": 1})
            stream = told(client, last_id=last_id)
            name, _, patch = await anext(stream)
            await stream.aclose()
            assert (name, len(patch["requests"])) == ("patch", 1)
            assert "series" not in patch or len(patch["series"]["series"]["p50"]) < 150
            assert snapshot["requests"] == {}
            for lost_id in ("nobody-1.1", f"{last_id.rpartition('.')[0]}.99999", "x"):
                stream = told(client, last_id=lost_id)
                assert (await anext(stream))[0] == "snapshot"
                await stream.aclose()


async def test_a_listener_may_want_a_part_alone(looked_at) -> None:
    """Named by `views`; others are refused by name."""
    with Live(looked_at._transport.app) as url:
        async with httpx2.AsyncClient(base_url=url, timeout=60) as client:
            stream = told(client, "/v1/admin/events?views=overview,replicas")
            _, _, snapshot = await anext(stream)
            await stream.aclose()
            assert set(snapshot) == {"at", "overview", "replicas"}
            assert (await client.get("/v1/admin/events?views=all")).json()["error"]["param"] == "views"


async def test_what_happens_is_told_soon_to_all_who_listen(looked_at, lively) -> None:
    """Not at the next tick: a decision comes within a quarter of a second where the machine has time."""
    loop = asyncio.get_running_loop()
    with Live(looked_at._transport.app) as url:
        async with httpx2.AsyncClient(base_url=url, timeout=60) as client:
            streams = [told(client) for _ in range(8)]
            for stream in streams:
                await anext(stream)
            waits: list[float] = []
            for number in range(6):
                await asyncio.sleep(0.31)
                began = loop.time()
                lively.journal.decide("drain", f"r{number}", "a test asked", lively.now())

                async def hear(stream: AsyncIterator[Told], subject: str) -> float:
                    while True:
                        _, _, data = await anext(stream)
                        if any(each and each["subject"] == subject for each in data.get("decisions", {}).values()):
                            return loop.time()

                heard = await asyncio.gather(*(hear(stream, f"r{number}") for stream in streams))
                waits += [at - began for at in heard]
            for stream in streams:
                await stream.aclose()
    assert sorted(waits)[len(waits) // 2] < 0.25


async def test_a_bell_wakes_all_who_wait_from_any_thread() -> None:
    """Who has missed a ring does not wait, and nobody waits longer than said."""
    bell = Bell()
    waiting = [asyncio.ensure_future(bell.wait(0, 600)) for _ in range(3)]
    await asyncio.sleep(0)
    await asyncio.to_thread(bell.ring)
    async with asyncio.timeout(60):
        await asyncio.gather(*waiting)
        await bell.wait(0, 600)
        await bell.wait(1, 0.01)
