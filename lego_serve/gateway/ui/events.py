"""The dashboard's stream: everything once, then what has changed.

A reader gets what differs between what it was sent last and what is now, computed when it has taken the last event: a
slow one skips what lay between, and nothing queues up.  What was sent in the last minute is remembered, so that one
who comes back with ``Last-Event-ID`` gets what it missed alone.
"""

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from lego_serve.core.whole_numbers import whole_number
from lego_serve.gateway.ui.overview import length_of, overview_of, series_of, shown_replicas
from lego_serve.gateway.ui.pump import Pump
from lego_serve.gateway.ui.watch import Watch

PING_S = 2.0  # pages call themselves stale after three seconds without a word
ROWS = 100
REMEMBERED_S, REMEMBERED_CARDS = 60.0, 20_000
# Numbers that rise by themselves are left to the page, which has a clock; they come along where anything else changed.
CLOCKED = ("age_s", "waited_s", "eta_s")
OVERVIEW_LEFT_OUT = ("at", "object")
VIEWS = ("overview", "models", "replicas", "requests", "decisions", "series")
CARDS = ("models", "replicas", "requests", "decisions")

RowFilter = Callable[[Mapping[str, Any]], bool]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a listener wants to see; ``query`` tells those apart who want different things."""

    query: str
    window_s: int
    is_shown: RowFilter
    model: str = ""
    views: Collection[str] = VIEWS


@dataclass(frozen=True, slots=True)
class State:
    """All that a listener is shown, as of a version of the watch."""

    version: int
    at: float
    shown: Mapping[str, Any]

    @property
    def cards(self) -> int:
        """How much it holds."""
        return sum(len(self.shown.get(part, ())) for part in CARDS)


class Memory:
    """The states of the last minute, by what is wanted."""

    def __init__(self) -> None:
        self._states: dict[str, deque[State]] = {}

    def keep(self, wanted: Wanted, state: State) -> None:
        """Remember a state."""
        states = self._states.setdefault(wanted.query, deque())
        if not states or states[-1].version != state.version:
            states.append(state)
        cards = sum(each.cards for each in states)
        while len(states) > 1 and (state.at - states[0].at > REMEMBERED_S or cards > REMEMBERED_CARDS):
            cards -= states.popleft().cards
        for query in [q for q, known in self._states.items() if state.at - known[-1].at > REMEMBERED_S]:
            del self._states[query]

    def find(self, wanted: Wanted, version: int) -> State | None:
        """Return the state of a version, if it is remembered."""
        return next((each for each in self._states.get(wanted.query, ()) if each.version == version), None)


class Stream:
    """Tells listeners of a watch."""

    def __init__(self, watch: Watch, pump: Pump) -> None:
        self._watch, self._pump, self._memory = watch, pump, Memory()

    async def events(self, wanted: Wanted, last_id: str) -> AsyncIterator[bytes]:
        """Yield the events of one listener until it leaves; the pump counts it already."""
        watch, clock = self._watch, asyncio.get_running_loop().time
        try:
            await self._pump.start()
            remembered = self._remembered(wanted, last_id)
            sent = remembered or self._state(wanted)
            if remembered is None:
                yield self._snapshot(wanted, sent)
            said = clock()
            while not watch.context.draining.has_begun:
                if await self._pump.newer(sent.version, PING_S / 4):
                    event, sent = self._patch(wanted, sent)
                    if event:
                        said = clock()
                        yield event
                if clock() - said >= PING_S:
                    said = clock()
                    yield self._event("ping", sent, {})
            yield self._event("bye", sent, {"why": "the server is stopping"})
        finally:
            self._pump.leave()

    def _remembered(self, wanted: Wanted, last_id: str) -> State | None:
        gateway, _, version = last_id.rpartition(".")
        number = whole_number(version) if gateway == self._watch.recorder.id else None
        return None if number is None else self._memory.find(wanted, number)

    def _state(self, wanted: Wanted) -> State:
        watch = self._watch
        return watch.once((wanted.query, "state"), lambda: self._made(wanted))

    def _made(self, wanted: Wanted) -> State:
        state = State(self._watch.version, self._watch.at, state_of(self._watch, wanted))
        self._memory.keep(wanted, state)
        return state

    def _snapshot(self, wanted: Wanted, state: State) -> bytes:
        shown = dict(state.shown)
        if "series" in wanted.views:
            shown["series"] = series_of(self._watch, wanted.window_s, wanted.model)
        return self._event("snapshot", state, shown)

    def _patch(self, wanted: Wanted, before: State) -> tuple[bytes, State]:
        """Return the event that tells of what has changed, nothing where that is nothing, and the state now."""
        now = self._state(wanted)
        key = (wanted.query, "patch", before.version)
        return self._watch.once(key, lambda: self._changed(wanted, before, now)), now

    def _changed(self, wanted: Wanted, before: State, now: State) -> bytes:
        patch, length = changes(before.shown, now.shown), length_of(wanted.window_s)
        bins = min(int(now.at // length) - int(before.at // length), wanted.window_s // length)
        if bins > 0 and "series" in wanted.views:
            key = ("series", wanted.window_s, wanted.model, bins)
            patch["series"] = self._watch.once(
                key, lambda: series_of(self._watch, wanted.window_s, wanted.model, last=bins)
            )
        return self._event("patch", now, patch) if patch else b""

    def _event(self, name: str, state: State, data: Mapping[str, Any]) -> bytes:
        text = json.dumps({"at": round(self._watch.at, 3), **data}, separators=(",", ":"))
        return f"event: {name}\nid: {self._watch.recorder.id}.{state.version}\ndata: {text}\n\n".encode()


def state_of(watch: Watch, wanted: Wanted) -> dict[str, Any]:
    """Return all that a page shows, in the form in which changes are found."""
    overview = watch.once(("overview", wanted.window_s), lambda: overview_of(watch, wanted.window_s))
    models = {model["name"]: model for model in overview["models"]}
    state: dict[str, Any] = {
        "overview": {name: value for name, value in overview.items() if name != "models"},
        "models": models,
    }
    if "replicas" in wanted.views:
        replicas = shown_replicas(watch, overview["models"], wanted.model)
        state["replicas"] = {name: _heard(card, watch.at) for name, card in replicas.items()}
    if "requests" in wanted.views:
        rows = [row for row in watch.rows() if wanted.is_shown(row)]
        live = [row for row in rows if row["state"] != "ended"][:ROWS]
        ended = [row for row in rows if row["state"] == "ended"][: ROWS - min(len(live), ROWS // 2)]
        state["requests"] = {row["id"]: row for row in [*live, *ended]}
    if "decisions" in wanted.views:
        state["decisions"] = {f"{each['gateway']}.{each['number']}": each for each in watch.decisions()[:50]}
    return {name: part for name, part in state.items() if name in wanted.views}


def _heard(card: Mapping[str, Any], now: float) -> dict[str, Any]:
    """A replica with how long ago it was heard, in steps that say something new only where it is long."""
    heard_s = now - card["heard"]
    return {
        **{name: value for name, value in card.items() if name != "heard"},
        "heard_s": round(heard_s) if heard_s > 3 else 0,
    }


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Return what to send of a state to somebody who has another: the fields that differ, None for what is gone."""
    patch: dict[str, Any] = {}
    overview = {
        name: value
        for name, value in now.get("overview", {}).items()
        if name not in OVERVIEW_LEFT_OUT and value != before["overview"].get(name)
    }
    if overview:
        patch["overview"] = overview
    for part in CARDS:
        old, new = before.get(part, {}), now.get(part, {})
        changed: dict[str, Any] = {name: None for name in old if name not in new}
        for name, card in new.items():
            if name not in old:
                changed[name] = card
            elif card is not old[name] and (fields := _different(old[name], card)):
                changed[name] = fields
        if changed:
            patch[part] = changed
    return patch


def _different(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that differ; those that rise by themselves come along, and do not count."""
    fields = {name: value for name, value in new.items() if name not in old or old[name] != value}
    return fields if any(name not in CLOCKED for name in fields) else {}
