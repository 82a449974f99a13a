"""Keeps what all gateways and replicas say, for as long as somebody looks: asked at most twice a second, by one task.

Nothing is asked while nobody looks.  Any gateway can do this for all: the others answer for themselves alone.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

from fastapi import Request

from lego_serve.core.nodes.requests import ReplicaLoad, SeenReplica
from lego_serve.gateway.context import Context
from lego_serve.gateway.peers import Peers
from lego_serve.gateway.ui.part import KnownGateway, Since, part_of
from lego_serve.gateway.ui.queued import queued_rows
from lego_serve.gateway.ui.recorder import Recorder

Made = TypeVar("Made")
FRESH_S = 0.5  # what is younger is not asked for again
LOST_AFTER_S = 5.0  # without a word of a replica
LOST_SHOWN_S = 120.0
GONE_AFTER_S = 10.0  # without a word of a gateway


class Watch:
    """The view of all gateways and replicas, shared by all who look at this gateway."""

    def __init__(
        self, context: Context, peers: Peers | None, recorder: Recorder, clock: Callable[[], float] = time.time
    ) -> None:
        self.context, self.recorder, self._peers, self._clock = context, recorder, peers, clock
        self.gateways: dict[str, KnownGateway] = {}
        self.replicas: dict[str, dict[str, Any]] = {}
        self.at = 0.0
        self._queued: list[dict[str, Any]] = []
        self._made: dict[object, Any] = {}
        self._turn = asyncio.Lock()

    async def refresh(self, request: Request) -> None:
        """Ask all, unless that was done a moment ago; those who look at the same time wait for the same answers."""
        async with self._turn:
            if self._clock() - self.at < FRESH_S:
                return
            seen, queued, _ = await asyncio.gather(
                self.context.admin.loads(), queued_rows(self.context, self._clock()), self._ask_gateways(request)
            )
            self.at, self._queued = self._clock(), queued
            self._note_replicas(seen)
            self._made.clear()

    def once(self, key: object, make: Callable[[], Made]) -> Made:
        """Return what is made of all that is known, made once for all who look until more is known."""
        if key not in self._made:
            self._made[key] = make()
        made: Made = self._made[key]
        return made

    def rows(self) -> list[dict[str, Any]]:
        """Return all known jobs, those in flight and queued first, then by when they began, the newest first."""
        known = [*self.gateways.values()]
        live = [row for gateway in known for row in gateway.live]
        taken = {row["id"] for row in live}
        live += [row for row in self._queued if row["id"] not in taken]
        ids = {row["id"] for row in live}
        ended = [row for gateway in known for row in gateway.ended if row["id"] not in ids]
        return sorted(live, key=lambda row: -row["age_s"]) + sorted(ended, key=lambda row: -row["created"])

    def decisions(self) -> list[dict[str, Any]]:
        """Return all known decisions, the last first; what several gateways have seen is one."""
        every = [each for gateway in self.gateways.values() for each in gateway.decisions.values()]
        seen: dict[tuple[str, str], dict[str, Any]] = {}
        kept = []
        for each in sorted(every, key=lambda decision: -decision["at"]):
            key = (each["kind"], each["subject"])
            same = seen.get(key)
            if each["kind"] in ("lost", "up") and same is not None and abs(same["at"] - each["at"]) < 30:
                if not same["job"] and each["job"]:
                    same.update(each)
                continue
            seen[key] = each
            kept.append(each)
        return kept

    async def _ask_gateways(self, request: Request) -> None:
        now = self._clock()
        own = self.gateways.setdefault(self.recorder.id, KnownGateway())
        own.take(part_of(self.recorder, own.since), now)
        if self._peers is None:
            return
        since = ",".join(f"{name}.{known.since}" for name, known in self.gateways.items()) or "none"
        for part in await self._peers.ask(request, "GET", f"/v1/admin/part?since={since}"):
            known = self.gateways.setdefault(part["gateway"]["id"], KnownGateway())
            known.take(part, self._clock())
        for name in [name for name, known in self.gateways.items() if now - known.heard > 10 * GONE_AFTER_S]:
            del self.gateways[name]

    def _note_replicas(self, seen: Sequence[SeenReplica]) -> None:
        now = self.at
        before = dict(self.replicas)
        for replica in seen:
            card = card_of(replica, now)
            old = before.get(replica.id)
            card["since"] = now if old is None else old["since"]
            if old is None and before:
                self._tell_of_new(replica, seen)
            self.replicas[replica.id] = card
        present = {replica.id for replica in seen}
        answering = {(replica.model, replica.component) for replica in seen}
        departed = {each["subject"]: each["at"] for each in self.decisions() if each["kind"] == "lost"}
        for name, card in before.items():
            if name in present:
                continue
            is_gone = name in departed or (card["model"], card["component"]) in answering
            if card["state"] != "lost" and (is_gone or now - card["heard"] > LOST_AFTER_S):
                self.replicas[name] = card | {"state": "lost", "lost_at": departed.get(name, now)}
            elif card["state"] == "lost" and now - card["lost_at"] > LOST_SHOWN_S:
                del self.replicas[name]
        self._show_lost(present)

    def _show_lost(self, present: Collection[str]) -> None:
        """Show the replicas that went lately though nobody looked at this gateway before they did."""
        for each in self.decisions():
            model, _, component = each["node"].rpartition(".")
            is_new = each["kind"] == "lost" and model and self.at - each["at"] < LOST_SHOWN_S
            if is_new and each["subject"] not in {*present, *self.replicas}:
                gone = card_of(SeenReplica(each["subject"], model, component, ReplicaLoad()), each["at"])
                self.replicas[each["subject"]] = gone | {"state": "lost", "since": each["at"], "lost_at": each["at"]}

    def _tell_of_new(self, replica: SeenReplica, seen: Sequence[SeenReplica]) -> None:
        """Note a replica that was not there when somebody looked last."""
        node = (replica.model, replica.component)
        count = sum((each.model, each.component) == node for each in seen)
        are = "is 1 replica" if count == 1 else f"are {count} replicas"
        why = f"there {are} of {replica.model}.{replica.component} now"
        runner = self.context.runner
        runner.journal.decide("up", replica.id, why, runner.now())


def card_of(replica: SeenReplica, now: float) -> dict[str, Any]:
    """Return a replica as the dashboard shows it."""
    load = replica.load
    memory: Mapping[str, list[int]] = {use.kind: [use.used, use.budget] for use in load.memory}
    return {
        "id": replica.id,
        "object": "replica",
        "node": f"{replica.model}.{replica.component}",
        "model": replica.model,
        "component": replica.component,
        "machine": load.machine,
        "state": "draining" if load.is_draining else "up",
        "heard": now,
        "load": {
            "running": load.running,
            "waiting": load.waiting,
            "step_s": round(load.step_s, 5),
            "recent": list(load.recent),
        },
        "memory": dict(memory),
    }


def since_of(text: str, recorder: Recorder) -> Since:
    """Return how far the asking gateway has heard this one."""
    return Since.read(text, recorder.id)
