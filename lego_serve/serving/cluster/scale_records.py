"""What Serve's controller and the gateways tell each other of the number of replicas, by Ray's own key-value store.

Gateways write pins, one key each; the controller, in which the autoscaling hook runs, writes the board.  Nothing of
this is asked while the answer cannot have changed: the controller looks for pins at most once a second for all nodes.
"""

import asyncio
import json
import logging
from collections.abc import Collection, Mapping
from functools import cache
from typing import Protocol

from lego_serve.core.placement.replica_scaler import ReplicaScaler
from lego_serve.core.scheduling.autoscaling import ReplicaBounds, ScaleDecision
from lego_serve.core.scheduling.scale_board import NodeScale, ScaleBoard, ScaleChange
from lego_serve.errors import NodeUnavailable, NotFound
from lego_serve.serving.cluster.connect import NO_RAY, in_thread
from lego_serve.serving.cluster.ray_internals import KeyValueStore

MOST_REPLICAS = 64  # that a node may be pinned to
LOOK_PERIOD_S = 1.0
REST_S = 15.0  # after a look that failed
PATIENCE_S = 1.0
BOARD, PIN = "lego_serve.scale.board", "lego_serve.scale.pin."
log = logging.getLogger("lego_serve.cluster")


class Store(Protocol):
    """Texts by key, for all processes of a cluster."""

    def get(self, key: str) -> str:
        """Return a text, an empty one where there is none."""
        ...

    def put(self, key: str, text: str) -> None:
        """Write a text."""
        ...

    def remove(self, key: str) -> None:
        """Remove a text."""
        ...

    def keys(self, beginning: str) -> list[str]:
        """Return the keys that begin so."""
        ...


class ScaleRecords:
    """The controller's side: pins as they were last looked for, and the board, written when it says a new thing."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._board: ScaleBoard | None = None
        self._pins: dict[str, ReplicaBounds] = {}
        self._looked = float("-inf")

    def pinned(self, app: str, now: float) -> ReplicaBounds | None:
        """Return the bounds that an operator pinned an application to."""
        if now - self._looked >= LOOK_PERIOD_S:
            self._looked = now
            try:
                texts = {key: self._store.get(key) for key in self._store.keys(PIN)}
            except NO_RAY:  # what was known holds
                self._looked += REST_S  # each look that fails holds Serve's controller up
                log.warning("pins could not be read", exc_info=True)
            else:
                self._pins = {key.removeprefix(PIN): ReplicaBounds(*json.loads(t)) for key, t in texts.items() if t}
        return self._pins.get(app)

    def note(
        self,
        app: str,
        current: int,
        decision: ScaleDecision,
        bounds: ReplicaBounds,
        now: float,
        *,
        is_pinned: bool = False,
    ) -> None:
        """Take a decision, and write the board where it says a new thing."""
        try:
            if self._board is None:
                self._board = ScaleBoard.from_json(self._store.get(BOARD))
            if self._board.note(app, current, decision, bounds, now, is_pinned=is_pinned):
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
