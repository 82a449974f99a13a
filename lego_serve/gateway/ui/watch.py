"""What all gateways and replicas say, brought together for all who look at this gateway.

Nothing is asked while nobody looks.  Any gateway can do this for all: the others answer for themselves alone.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from lego_serve.core.nodes.requests import MemoryUse, ReplicaLoad, SeenReplica, process_of
from lego_serve.core.scheduling.scale_board import ScaleBoard
from lego_serve.gateway.context import Context
from lego_serve.gateway.peers import Peers
from lego_serve.gateway.routes.admin import replica_facts
from lego_serve.gateway.ui.part import KnownGateway, Since, part_of
from lego_serve.gateway.ui.queued import queued_rows
from lego_serve.gateway.ui.recorder import Recorder

Made = TypeVar("Made")
FRESH_S = 0.5  # what is younger is not asked for again
LOST_AFTER_S = 5.0  # without a word of a replica
LOST_SHOWN_S = 120.0
TEMPLATES_S = 10.0  # between two counts of templates, whose files have to be read
GONE = ("lost", "stopped")
NODES_KEPT = 5000  # of replicas that were seen, so that what is said of them later has their node
MEANT_S = 120.0  # within which a replica goes that is to go
GONE_AFTER_S = 10.0  # without a word of a gateway
SEEN_BY_ALL = ("lost", "up", "evict")  # decisions that every gateway takes note of by itself
OF_WORKERS = ("models", "host")  # the kinds of memory of a shared worker: its device, and what was evicted from it
SHARED_WORKERS = "shared.workers"
CLUSTER = "cluster"  # stands for a gateway in what no gateway decides


class Watch:
    """The view of all gateways and replicas; ``version`` rises each time that more is known.

    ``is_kept``: somebody keeps it up to date, so that a look at this gateway's own jobs is all that is wanting.
    """

    def __init__(
        self, context: Context, peers: Peers | None, recorder: Recorder, clock: Callable[[], float] = time.time
    ) -> None:
        self.context, self.recorder, self.peers, self._clock = context, recorder, peers, clock
        self.gateways: dict[str, KnownGateway] = {}
        self.replicas: dict[str, dict[str, Any]] = {}
        self.scales = ScaleBoard()
        self.at, self.version, self.is_kept = 0.0, 0, False
        self.templates: dict[str, int] = {"registered": 0, "pinned": 0}
        self._queued: list[dict[str, Any]] = []
        self._counted = self._looked = 0.0
        self._evicted: dict[str, dict[str, int]] = {}
        self._made: dict[object, Any] = {}
        self._nodes: dict[str, str] = {}  # of replicas of one node, by their processes
        self._turn = asyncio.Lock()

    async def refresh(self) -> None:
        """Ask all, unless that was done a moment ago; those who look at the same time wait for the same answers."""
        async with self._turn:
            if self._clock() - self.at < FRESH_S:
                return
            if not self.is_kept:
                await asyncio.gather(self.look_at_replicas(), self._ask_peers())
            self.look_here()

    async def look_at_replicas(self) -> None:
        """Ask all replicas, what they are to be, and the store of jobs; now and then count templates."""
        now = self._clock()
        if now - self._looked > LOST_SHOWN_S:  # what was there when somebody looked last says nothing of the time since
            self.replicas.clear()
            self._evicted.clear()
        self._looked = now
        seen, self.scales, self._queued = await asyncio.gather(
            self.context.admin.loads(), self.context.admin.scales(), queued_rows(self.context, now)
        )
        self._note_replicas(seen)
        if self.context.templates is not None and now - self._counted > TEMPLATES_S:
            self._counted = now
            every = await asyncio.to_thread(self.context.templates.of_all)
            found = [template for templates in every.values() for template in templates]
            self.templates = {"registered": len(found), "pinned": sum(bool(each.pin) for each in found)}

    def look_here(self) -> None:
        """Take what this gateway has to say itself; with it more is known."""
        now = self._clock()
        own = self.gateways.setdefault(self.recorder.id, KnownGateway())
        own.take(part_of(self.recorder, own.since), now)
        for name in [name for name, known in self.gateways.items() if now - known.heard > 10 * GONE_AFTER_S]:
            del self.gateways[name]
        self.at, self.version = now, self.version + 1
        self._made.clear()
        self._show_lost()

    def take(self, answer: Mapping[str, Any]) -> None:
        """Take what others have answered."""
        for part in answer["parts"]:
            self.gateways.setdefault(part["gateway"]["id"], KnownGateway()).take(part, self._clock())

    @property
    def since(self) -> str:
        """How far each gateway has been heard."""
        return ",".join(f"{name}.{known.since}" for name, known in self.gateways.items()) or "none"

    def once(self, key: object, make: Callable[[], Made]) -> Made:
        """Return what is made of all that is known, made once for all who look until more is known."""
        if key not in self._made:
            self._made[key] = make()
        made: Made = self._made[key]
        return made

    def rows(self) -> list[dict[str, Any]]:
        """Return all known jobs, those in flight and queued first, then by when they began, the newest first."""
        return self.once("rows", self._rows)

    def _rows(self) -> list[dict[str, Any]]:
        known = [*self.gateways.values()]
        live = [row for gateway in known for row in gateway.live]
        taken = {row["id"] for row in live}
        live += [row for row in self._queued if row["id"] not in taken]
        ids = {row["id"] for row in live}
        ended = [row for gateway in known for row in gateway.ended if row["id"] not in ids]
        return sorted(live, key=lambda row: -row["age_s"]) + sorted(ended, key=lambda row: -row["created"])

    def decisions(self) -> list[dict[str, Any]]:
        """Return all known decisions, the last first; what several gateways have seen is one."""
        return self.once("decisions", self._decisions)

    def _decisions(self) -> list[dict[str, Any]]:
        every = [each for gateway in self.gateways.values() for each in gateway.decisions.values()]
        every += [_scaled(self.scales, index) for index in range(len(self.scales.changes))]
        seen: dict[tuple[str, str], dict[str, Any]] = {}
        kept = []
        for known in sorted(every, key=lambda decision: -decision["at"]):
            each = known if known["node"] else {**known, "node": self._nodes.get(known["subject"], "")}
            key = (each["kind"], each["subject"])
            same = seen.get(key)
            if each["kind"] in SEEN_BY_ALL and same is not None and abs(same["at"] - each["at"]) < 30:
                if not same["job"] and each["job"]:
                    same.update(each)
                continue
            seen[key] = each
            kept.append(each)
        return [each for each in kept if each["kind"] != "scale" or each["from"] != each["to"]]

    async def _ask_peers(self) -> None:
        peers = [] if self.peers is None else await self.peers.current()
        path = f"/v1/admin/part?since={self.since}"
        for answer in await asyncio.gather(*(peer.ask(path) for peer in peers)):
            if answer is not None:
                self.take(answer)

    def _note_replicas(self, seen: Sequence[SeenReplica]) -> None:
        now = self._clock()
        before = dict(self.replicas)
        known = {process_of(name) for name in before}
        for replica in seen:
            card = card_of(replica, now)
            old = before.get(replica.id)
            card["since"] = now if old is None else old["since"]
            if old is None and before and process_of(replica.id) not in known:
                self._tell_of_new(replica, seen)
                known.add(process_of(replica.id))
            self.replicas[replica.id] = card
            if not replica.is_shared:
                self._nodes[replica.id] = card["node"]
            self._note_evicted(replica)
        while len(self._nodes) > NODES_KEPT:
            del self._nodes[next(iter(self._nodes))]
        present = {replica.id for replica in seen}
        self._evicted = {name: counts for name, counts in self._evicted.items() if name in present}
        answering = {(replica.model, replica.component) for replica in seen}
        departed = {each["subject"]: each["at"] for each in self.decisions() if each["kind"] == "lost"}
        for name, card in before.items():
            if name in present:
                continue
            process = process_of(name)
            is_gone = process in departed or (card["model"], card["component"]) in answering
            if card["state"] not in GONE and (is_gone or now - card["heard"] > LOST_AFTER_S):
                self.replicas[name] = self._gone(card, departed.get(process, now))
            elif card["state"] in GONE and now - card["lost_at"] > LOST_SHOWN_S:
                del self.replicas[name]

    def _show_lost(self) -> None:
        """Show the replicas that went lately though nobody looked at this gateway before they did."""
        shown = {process_of(name) for name in self.replicas}
        for each in self.decisions():
            model, _, component = each["node"].rpartition(".")
            is_new = each["kind"] == "lost" and model and self._clock() - each["at"] < LOST_SHOWN_S
            if is_new and each["subject"] not in shown:
                gone = card_of(SeenReplica(each["subject"], model, component, ReplicaLoad()), each["at"])
                self.replicas[each["subject"]] = self._gone(gone | {"since": each["at"]}, each["at"])
        for name, card in self.replicas.items():  # the reason may have come after
            if card["state"] == "lost":
                self.replicas[name] = self._gone(card, card["lost_at"])

    def _gone(self, card: dict[str, Any], at: float) -> dict[str, Any]:
        """Return a replica that is gone: stopped, where fewer were wanted or it had been drained, else lost."""
        is_meant = any(
            abs(each["at"] - at) < MEANT_S
            and (
                (each["kind"] == "scale" and each["subject"] == scaled_as(card) and each["to"] < each["from"])
                or (each["kind"] == "drain" and each["subject"] == process_of(card["id"]))
            )
            for each in self.decisions()
        )
        return card | {"state": "stopped" if is_meant else "lost", "lost_at": at}

    def _note_evicted(self, replica: SeenReplica) -> None:
        """Note what made room for others in a replica since it was looked at last."""
        # Of models the workers themselves tell with their answers, whether anybody looks or not.
        now = {use.kind: use.evicted for use in replica.load.memory if use.kind not in OF_WORKERS}
        before = self._evicted.get(replica.id)
        self._evicted[replica.id] = now
        for use in replica.load.memory if before is not None else ():
            count = use.evicted - (before or {}).get(use.kind, use.evicted)
            if count > 0:
                runner, (what, made) = self.context.runner, _evicted_words(use, count)
                node = f"{replica.model}.{replica.component}"
                why = f"{what} made room for others in {process_of(replica.id)[-4:]} of {node}; {made}"
                runner.journal.decide("evict", f"{use.kind} {replica.id}", why, runner.now(), node=node)

    def _tell_of_new(self, replica: SeenReplica, seen: Sequence[SeenReplica]) -> None:
        """Note a replica that was not there when somebody looked last."""
        node = (replica.model, replica.component)
        count = sum((each.model, each.component) == node for each in seen)
        are = "is 1 replica" if count == 1 else f"are {count} replicas"
        what = SHARED_WORKERS if replica.is_shared else f"{replica.model}.{replica.component}"
        runner = self.context.runner
        runner.journal.decide("up", process_of(replica.id), f"there {are} of {what} now", runner.now())


def _scaled(board: ScaleBoard, index: int) -> dict[str, Any]:
    """Return a change of a number of replicas as a decision."""
    change = board.changes[index]
    return {
        "number": change.number,
        "at": change.at,
        "kind": "scale",
        "subject": change.node,
        "why": change.why,
        "by": "operator" if "operator" in change.why else "server",
        "job": "",
        "count": 1,
        "node": change.node,
        "gateway": CLUSTER,
        "from": change.before,
        "to": change.after,
    }


def _evicted_words(use: MemoryUse, count: int) -> tuple[str, str]:
    """Return how many of a kind were evicted, and how full its place is."""
    one = {"templates": "entry of a template", "images": "encoded image"}.get(use.kind, use.kind.removesuffix("s"))
    many = {"templates": "entries of templates", "images": "encoded images"}.get(use.kind, use.kind)
    megabytes = f"{use.used / 1e6:.0f} of {use.budget / 1e6:.0f} MB are taken"
    return f"{count} {one if count == 1 else many}", megabytes


def scaled_as(card: Mapping[str, Any]) -> str:
    """Return the name under which a replica is counted when nodes scale: shared workers are counted together."""
    return SHARED_WORKERS if card["is_shared"] else str(card["node"])


def card_of(replica: SeenReplica, now: float) -> dict[str, Any]:
    """Return a replica as the dashboard shows it."""
    load = replica.load
    memory: Mapping[str, list[int]] = {use.kind: [use.used, use.budget, use.evicted] for use in load.memory}
    return {
        **replica_facts(replica),
        "heard": now,
        "load": {
            "running": load.running,
            "waiting": load.waiting,
            "room": load.room,
            "step_s": round(load.step_s, 5),
            "recent": list(load.recent),
        },
        "memory": dict(memory),
    }


def since_of(text: str, recorder: Recorder) -> Since:
    """Return how far the asking gateway has heard this one."""
    return Since.read(text, recorder.id)
