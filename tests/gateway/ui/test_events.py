"""The stream of the dashboard: what it sends at first, what it sends later, and to how many."""

import asyncio
import json
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.errors import CapacityError
from lego_serve.gateway.ui import events as stream
from lego_serve.gateway.ui.events import MOST_LISTENERS, Listeners, changes
from tests.support.gateway.client import Live

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
        cards = {**state[part], **patch.get(part, {})}
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
    listeners = Listeners()
    for _ in range(MOST_LISTENERS):
        listeners.enter()
    with pytest.raises(CapacityError):
        listeners.enter()
    listeners.leave()
    listeners.enter()


async def test_a_stream_begins_with_everything_and_goes_on_with_changes(looked_at, lively, monkeypatch) -> None:
    """A request that comes meanwhile is a row, and then an ended one."""
    monkeypatch.setattr(stream, "TICK_S", 0.05)
    lively.step_s = 0.05
    with Live(looked_at._transport.app) as url:
        async with httpx2.AsyncClient(base_url=url, timeout=20) as client:
            running: asyncio.Future[httpx2.Response] | None = None
            states: list[str] = []
            async with client.stream("GET", "/v1/admin/events") as answer:
                async for line in answer.aiter_lines():
                    if not line.startswith("data: "):
                        continue
                    data = json.loads(line[6:])
                    if running is None:
                        assert set(data) == {"at", "overview", "replicas", "requests", "decisions", "series"}
                        body = {"prompt": "a", "num_inference_steps": 20, "seed": 1}
                        running = asyncio.ensure_future(client.post("/v1/images/generations", json=body))
                    states += [row["state"] for row in data.get("requests", {}).values()]
                    if "ended" in states:
                        break
            assert running is not None
            assert (await running).status_code == 200
    assert states[-1] == "ended"
    assert "running" in states


async def test_nothing_is_asked_while_nobody_looks(looked_at, lively) -> None:
    """Replicas are left alone until somebody looks, and after."""
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
