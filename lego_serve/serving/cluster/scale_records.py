"""What Serve's controller and the gateways tell each other of the number of replicas, by Ray's own key-value store.

Gateways write pins, one key each, and while jobs wait there for a shared worker how many, one key a gateway; the
controller, in which the autoscaling hook runs, writes the board.  Nothing of this is asked while the answer cannot have
changed: the controller looks at most once a second for all nodes, and gateways tell no oftener.  None of it is among
the routing stats of replicas, of which each change is sent to every router.
"""

import asyncio
import contextlib
import json
import logging
import secrets
from collections.abc import Callable, Collection, Mapping
from functools import cache, partial
from typing import Protocol

from lego_serve.core.placement.replica_scaler import ReplicaScaler
from lego_serve.core.placement.room import Ask, ClusterRoom, NodeWaits
from lego_serve.core.placement.waiting_reports import WaitingReport, WaitingReports
from lego_serve.core.scheduling.autoscaling import ReplicaBounds, ScaleDecision
from lego_serve.core.scheduling.scale_board import NodeScale, ScaleBoard, ScaleChange
from lego_serve.errors import NodeUnavailable, NotFound
from lego_serve.serving.cluster.connect import in_thread
from lego_serve.serving.cluster.ray_internals import NO_RAY, KeyValueStore, cluster_room
from lego_serve.serving.suspects import TextStore

MOST_REPLICAS = 64  # that a node may be pinned to
LOOK_PERIOD_S = 1.0
REST_S = 15.0  # after a look that failed
ROOM_PERIOD_S = 2.0  # between two questions to Ray of what has no node
PATIENCE_S = 1.0
REPORT_S = 1.0  # between two words of a gateway in which jobs wait
OURS = "lego_serve.scale."  # begins all keys
BOARD, PIN, WAITING = f"{OURS}board", f"{OURS}pin.", f"{OURS}waiting."
log = logging.getLogger("lego_serve.cluster")


class Store(TextStore, Protocol):
    """Texts by key, of which the keys can be asked for."""

    def keys(self, beginning: str) -> list[str]:
        """Return the keys that begin so."""
        ...


class ScaleRecords:
    """The controller's side: pins and waiting jobs as they were last looked for, and the board, written when it says a
    new thing.
    """

    def __init__(self, store: Store, ask_room: Callable[[], ClusterRoom] = cluster_room) -> None:
        self._store = store
        self._ask_room, self._room, self._room_at = ask_room, ClusterRoom(), float("-inf")
        self._waits = NodeWaits()
        self._board: ScaleBoard | None = None
        self._pins: dict[str, ReplicaBounds] = {}
        self._reports = WaitingReports()
        self._looked = float("-inf")

    def pinned(self, app: str, now: float) -> ReplicaBounds | None:
        """Return the bounds that an operator pinned an application to."""
        self._look(now)
        return self._pins.get(app)

    def waiting(self, app: str, now: float) -> int:
        """Return the jobs that wait in gateways for an application's workers."""
        self._look(now)
        return self._reports.of(app, now)

    def _look(self, now: float) -> None:
        if now - self._looked < LOOK_PERIOD_S:
            return
        self._looked = now
        try:
            keys = [key for key in self._store.keys(OURS) if key.startswith((PIN, WAITING))]
            texts = {key: text for key in keys if (text := self._store.get(key))}
            pins = {key.removeprefix(PIN): text for key, text in texts.items() if key.startswith(PIN)}
            told = {key: WaitingReport.from_json(text) for key, text in texts.items() if key.startswith(WAITING)}
            self._pins = {app: ReplicaBounds(*json.loads(text)) for app, text in pins.items()}
            for key in self._reports.hear(told, now):
                self._store.remove(key)  # its gateway is gone, or writes it again
        except NO_RAY:  # what was known holds
            self._looked += REST_S  # each look that fails holds Serve's controller up
            log.warning("pins and waiting jobs could not be read", exc_info=True)

    def waits(self, app: str, wanted: int, running: int, ask: Ask, now: float) -> str:
        """Say what replicas of an application wait for; Ray is asked only while some do not run."""
        missing = wanted - running
        if missing > 0 and now - self._room_at >= ROOM_PERIOD_S:
            self._room_at = now
            try:
                self._room = self._ask_room()
            except NO_RAY:  # what was known holds
                self._room_at += REST_S
                log.warning("what replicas wait for could not be read", exc_info=True)
        return self._waits.look(app, wanted, missing, ask, self._room, now)

    def note(
        self,
        app: str,
        current: int,
        decision: ScaleDecision,
        bounds: ReplicaBounds,
        now: float,
        *,
        is_pinned: bool = False,
        waits: str = "",
    ) -> None:
        """Take a decision, and write the board where it says a new thing."""
        try:
            if self._board is None:
                self._board = ScaleBoard.from_json(self._store.get(BOARD))
            if self._board.note(app, current, decision, bounds, now, is_pinned=is_pinned, waits=waits):
                self._store.put(BOARD, self._board.to_json())
        except NO_RAY:  # the decision itself holds
            log.warning("the number of replicas could not be recorded", exc_info=True)


@cache
def controllers_records() -> ScaleRecords:
    """Return those of this process, which is Serve's controller."""
    return ScaleRecords(KeyValueStore())


@cache
def controllers_scaler(group: str, budget: float | None) -> ReplicaScaler:
    """Return that of a group of deployments in this process, which is Serve's controller."""
    return ReplicaScaler() if budget is None else ReplicaScaler(budget)


def forget(apps: Collection[str], store: Store | None = None) -> None:
    """Forget what an earlier start left of these applications: pins hold until a restart."""
    store = store or KeyValueStore()
    try:
        for app in apps:
            store.remove(f"{PIN}{app}")
        board = ScaleBoard.from_json(store.get(BOARD))
        nodes = {name: scale for name, scale in board.nodes.items() if name not in apps}
        store.put(BOARD, ScaleBoard(nodes, [each for each in board.changes if each.node not in apps]).to_json())
    except NO_RAY:  # the nodes are deployed all the same
        log.warning("what an earlier start left of pins could not be removed", exc_info=True)


class ClusterScaling:
    """The gateways' side; applications stand for nodes, ``MODEL.COMPONENT``."""

    def __init__(self, apps: Mapping[tuple[str, str], str], store: Store | None = None) -> None:
        self._names = {app: f"{model}.{component}" for (model, component), app in apps.items()}
        self._apps = {node: app for app, node in self._names.items()}
        self._store = store or KeyValueStore()

    async def read(self) -> ScaleBoard:
        """Return the board of this server's nodes; an empty one where it cannot be read soon."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                text = await in_thread(lambda: self._store.get(BOARD))
        except NO_RAY:
            return ScaleBoard()
        board = ScaleBoard.from_json(text)
        nodes: dict[str, NodeScale] = {self._names[a]: scale for a, scale in board.nodes.items() if a in self._names}
        changes = [
            ScaleChange(c.number, c.at, self._names[c.node], c.before, c.after, c.why)
            for c in board.changes
            if c.node in self._names
        ]
        return ScaleBoard(nodes, changes)

    async def pin(self, node: str, bounds: ReplicaBounds | None) -> None:
        """Pin a node to bounds, or to what its configuration says.  Raises NotFound, NodeUnavailable."""
        app = self._apps.get(node)
        if app is None:
            there_is = ", ".join(sorted(self._apps))
            raise NotFound(f"There is no node `{node}`; there is {there_is}.", code="node_not_found")
        key = f"{PIN}{app}"
        try:
            async with asyncio.timeout(5 * PATIENCE_S):
                if bounds is None:
                    await in_thread(lambda: self._store.remove(key))
                else:
                    await in_thread(lambda: self._store.put(key, json.dumps([bounds.min, bounds.max])))
        except NO_RAY as error:
            message = "Ray does not answer, so that nothing was pinned; ask again."
            raise NodeUnavailable(message, code="node_unavailable") from error

    async def report_waiting(self, waiting: Callable[[], Mapping[str, int]], pause_s: float = REPORT_S) -> None:
        """Tell the controller until cancelled how many jobs wait here, by application, for as long as any does."""
        key, number, is_told = f"{WAITING}{secrets.token_hex(8)}", 0, False
        while True:
            jobs, number = dict(waiting()), number + 1
            with contextlib.suppress(*NO_RAY):  # the next one says the same
                if jobs:
                    text = WaitingReport(number, jobs).to_json()
                    await in_thread(partial(self._store.put, key, text))
                    is_told = True
                elif is_told:
                    await in_thread(partial(self._store.remove, key))
                    is_told = False
            await asyncio.sleep(pause_s)
