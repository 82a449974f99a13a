"""The dashboard's stream: everything once, then what has changed.

A reader gets what differs between what it was sent last and what is now, computed when it has taken the last event: a
slow one skips what lay between, and nothing queues up.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from fastapi import Request

from lego_serve.errors import CapacityError
from lego_serve.gateway.ui.overview import length_of, overview_of, series_of, shown_replicas
from lego_serve.gateway.ui.watch import Watch

TICK_S = 1.0
PING_S = 5.0
MOST_LISTENERS = 32
ROWS = 100
# Numbers that rise by themselves are left to the page, which has a clock; they come along where anything else changed.
CLOCKED = ("age_s", "waited_s", "eta_s")
OVERVIEW_LEFT_OUT = ("at", "object")


class Listeners:
    """How many streams are open; more than there may be are refused."""

    def __init__(self) -> None:
        self._open = 0

    def enter(self) -> None:
        """Count one in.  Raises CapacityError."""
        if self._open >= MOST_LISTENERS:
            message = f"{MOST_LISTENERS} dashboards look at this gateway, and no more can; close one."
            raise CapacityError(message, code="too_many_listeners")
        self._open += 1

    def leave(self) -> None:
        """Count one out."""
        self._open -= 1


RowFilter = Callable[[Mapping[str, Any]], bool]


def state_of(watch: Watch, window_s: int, is_shown: RowFilter, model: str = "") -> dict[str, Any]:
    """Return all that a page shows, in the form in which changes are found."""
    rows = [row for row in watch.rows() if is_shown(row)]
    live = [row for row in rows if row["state"] != "ended"][:ROWS]
    ended = [row for row in rows if row["state"] == "ended"][: ROWS - min(len(live), ROWS // 2)]
    overview = overview_of(watch, window_s)
    replicas = shown_replicas(watch, overview["models"], model)
    return {
        "overview": overview,
        "replicas": {name: _heard(card, watch.at) for name, card in replicas.items()},
        "requests": {row["id"]: row for row in [*live, *ended]},
        "decisions": {f"{each['gateway']}.{each['number']}": each for each in watch.decisions()[:50]},
    }


def _heard(card: Mapping[str, Any], now: float) -> dict[str, Any]:
    """A replica with how long ago it was heard, in steps that say something new only where it is long."""
    heard_s = now - card["heard"]
    return {
        **{name: value for name, value in card.items() if name != "heard"},
        "heard_s": round(heard_s) if heard_s > 3 else 0,
    }


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Return what to send of a state to somebody who has another: None for what is gone."""
    patch: dict[str, Any] = {}
    overview = {
        name: value
        for name, value in now["overview"].items()
        if name not in OVERVIEW_LEFT_OUT and value != before["overview"].get(name)
    }
    if overview:
        patch["overview"] = overview
    for part in ("replicas", "requests", "decisions"):
        old, new = before[part], now[part]
        changed: dict[str, Any] = {name: None for name in old if name not in new}
        changed |= {name: card for name, card in new.items() if name not in old or _differs(old[name], card)}
        if changed:
            patch[part] = changed
    return patch


def _differs(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    return any(old.get(name) != value for name, value in new.items() if name not in CLOCKED) or len(old) != len(new)


async def events(
    watch: Watch, request: Request, listeners: Listeners, window_s: int, is_shown: RowFilter
) -> AsyncIterator[bytes]:
    """Yield the events of one listener until it leaves; ``listeners`` counts it already."""
    loop, query = asyncio.get_running_loop(), request.url.query
    model = request.query_params.get("model", "")
    try:
        await watch.refresh(request)
        sent, number = watch.once(("state", window_s, query), lambda: state_of(watch, window_s, is_shown, model)), 1
        series = series_of(watch, window_s)
        last_bin = int(watch.at // length_of(window_s))
        yield _event("snapshot", number, {"at": round(watch.at, 3), **sent, "series": series})
        said = loop.time()
        while not watch.context.draining.has_begun:
            await asyncio.sleep(TICK_S)
            await watch.refresh(request)
            now = watch.once(("state", window_s, query), lambda: state_of(watch, window_s, is_shown, model))
            patch = changes(sent, now)
            this_bin = int(watch.at // length_of(window_s))
            if this_bin > last_bin:
                patch["series"] = series_of(
                    watch, window_s, last=min(this_bin - last_bin, window_s // length_of(window_s))
                )
                last_bin = this_bin
            if patch:
                number, sent, said = number + 1, now, loop.time()
                yield _event("patch", number, {"at": round(watch.at, 3), **patch})
            elif loop.time() - said >= PING_S:
                said = loop.time()
                yield _event("ping", number, {"at": round(watch.at, 3)})
        yield _event("bye", number, {"why": "the server is stopping"})
    finally:
        listeners.leave()


def _event(name: str, number: int, data: Mapping[str, Any]) -> bytes:
    return f"event: {name}\nid: {number}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()
