"""Loads, keeps and evicts nodes under a byte budget, for the calls of one worker's event loop.

``core.caching.ledger`` decides what is evicted: the least expected benefit a byte first, and nothing that a call uses,
that is loading, or that an admitted job needs next.  One node loads at a time, in the order in which they are asked
for.  A node that cannot be loaded is held back for a while; the others go on.
"""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from lego_serve.core.caching.expectations import KEEP_S, Expectations
from lego_serve.core.caching.ledger import CacheLedger, Reservation, ReservationRefused
from lego_serve.core.caching.quarantine import Failure, Quarantine
from lego_serve.core.jobs.job import ModelMove
from lego_serve.errors import CheckpointError, NodeError, NodeUnavailable

FIRST_GUESS_S = 1.0  # the expected seconds of a load, before one was measured
log = logging.getLogger("lego_serve.workers")


class Closable(Protocol):
    """A node that lets go of what it has when it is evicted."""

    def close(self) -> None:
        """Let go of threads and memory; nothing is in hand."""
        ...


NodeT = TypeVar("NodeT", bound=Closable)


@dataclass(frozen=True, slots=True)
class Lease(Generic[NodeT]):
    """A node for one call, and the seconds that the call waited for it."""

    node: NodeT
    load_s: float


@dataclass(frozen=True, slots=True)
class HostedModel(Generic[NodeT]):
    """How a node is loaded, off the event loop, and the bytes it takes at the most."""

    size_bytes: int
    load: Callable[[], NodeT]


class ModelHost(Generic[NodeT]):
    """The nodes of one worker, by name; used from one event loop."""

    def __init__(
        self,
        models: Mapping[str, HostedModel[NodeT]],
        max_bytes: int,
        clock: Callable[[], float] = time.monotonic,
        quarantine: Quarantine | None = None,
    ) -> None:
        self._models, self._clock = models, clock
        self._ledger = CacheLedger(max_bytes)
        self._quarantine = quarantine or Quarantine()
        self._expected = Expectations()
        self._nodes: dict[str, NodeT] = {}
        self._loads: dict[str, asyncio.Task[None]] = {}
        self._load_s = dict.fromkeys(models, FIRST_GUESS_S)
        self._users: Counter[str] = Counter()
        self._evictions: Counter[str] = Counter()
        self._moves: list[ModelMove] = []
        self._pinned: set[str] = set()
        self._turn = asyncio.Lock()  # one load at a time, first come first served
        self._freed = asyncio.Event()

    @property
    def nodes(self) -> Mapping[str, NodeT]:
        """The resident nodes by name."""
        return self._nodes

    @property
    def used_bytes(self) -> int:
        """The bytes of the nodes that are resident or loading."""
        return self._ledger.used_bytes

    def bytes_of(self, name: str) -> int:
        """The bytes of a node, if it is resident."""
        return self._models[name].size_bytes if name in self._nodes else 0

    def evictions_of(self, name: str) -> int:
        """How often a node has made room for others."""
        return self._evictions[name]

    def take_moves(self) -> tuple[ModelMove, ...]:
        """Return what was loaded for calls and evicted since this was asked last."""
        moves, self._moves = tuple(self._moves), []
        return moves

    @property
    def max_bytes(self) -> int:
        """The byte budget."""
        return self._ledger.budget_bytes

    def failures(self) -> Mapping[str, Failure]:
        """The nodes whose last load failed."""
        return self._quarantine.failures()

    @asynccontextmanager
    async def lease(self, name: str, job_id: str | None, next_names: Collection[str]) -> AsyncIterator[Lease[NodeT]]:
        """Give a call the node, loaded first where it is not resident; what the job needs next is kept or loaded.

        Raises NodeError for a node that is too large or unknown, NodeUnavailable for one that is held back.
        """
        began_s = self._clock()
        self._ledger.touch(name, began_s)
        self._expect(job_id, [name, *next_names])
        self._users[name] += 1
        try:
            load_s = 0.0
            if name not in self._nodes:
                await self._loaded(name)
                load_s = self._clock() - began_s
            self._sync_pins()
            self._load_ahead(next_names)
            yield Lease(self._nodes[name], load_s)
        finally:
            self._users[name] -= 1
            self._expect(job_id, next_names)

    def preload(self, names: Collection[str]) -> None:
        """Load nodes one after the other as long as there is room; blocks, and is for the start of the worker."""
        for name in names:
            room = self._ledger.budget_bytes - self._ledger.used_bytes
            if self._models[name].size_bytes <= room:
                self._ledger.reserve(name, self._models[name].size_bytes, self._load_s[name])
                with contextlib.suppress(NodeUnavailable):  # the log has it, and so does the quarantine
                    self._keep(name, self._models[name].load, self._clock())

    def _expect(self, job_id: str | None, names: Collection[str]) -> None:
        if job_id is not None:
            known = [name for name in names if name in self._models]
            self._expected.expect(job_id, known, self._clock())
            if known:  # nobody may come back for them
                asyncio.get_running_loop().call_later(KEEP_S, self._sync_pins)
        self._sync_pins()

    def _sync_pins(self) -> None:
        """Pin what is used or needed next, and no more; whoever waits for room looks again."""
        wanted = self._expected.keys(self._clock()) | {name for name, users in self._users.items() if users > 0}
        held = {name for name in wanted if name in self._ledger or self._ledger.is_loading(name)}
        for name in held - self._pinned:
            self._ledger.pin(name)
        released = self._pinned - held
        for name in released:
            self._ledger.release(name)
        self._pinned = held
        if released:
            self._freed.set()

    def _load_ahead(self, names: Collection[str]) -> None:
        """Begin to load what a job needs next, while its call before that runs."""
        for name in names:
            if name in self._models and name not in self._nodes and self._reason(name) is None:
                self._start(name)

    def _start(self, name: str) -> "asyncio.Task[None]":
        task = self._loads.get(name)
        if task is None:
            task = self._loads[name] = asyncio.ensure_future(self._load(name))
            task.add_done_callback(lambda done: self._ended(name, done))
        return task

    def _ended(self, name: str, done: "asyncio.Task[None]") -> None:
        del self._loads[name]
        if not done.cancelled():
            done.exception()  # whoever waits has it; a preload nobody waits for is in the log

    async def _loaded(self, name: str) -> None:
        """Wait until a node is resident.  Raises NodeError, NodeUnavailable."""
        if name not in self._models:
            raise NodeError(f"No worker serves {name}.")
        while name not in self._nodes:
            reason = self._reason(name)
            if reason is not None:
                raise self._quarantined(name, reason)
            await asyncio.shield(self._start(name))

    def _reason(self, name: str) -> str | None:
        failure = self._quarantine.held_back(name, self._clock())
        return None if failure is None else failure.reason

    def _quarantined(self, name: str, reason: str) -> NodeUnavailable:
        """The error of a node that could not be loaded, with the seconds until it is tried again."""
        error = NodeUnavailable(f"{name} cannot be loaded: {reason}", code="model_quarantined")
        failure = self._quarantine.held_back(name, self._clock())
        error.retry_after_s = 0.0 if failure is None else failure.until_s - self._clock()
        return error

    async def _load(self, name: str) -> None:
        model = self._models[name]
        async with self._turn:
            await self._reserve(name, model.size_bytes)
            began_s = self._clock()
            node: NodeT | Exception
            try:
                node = await asyncio.to_thread(model.load)
            except Exception as error:
                node = error
            self._keep(name, lambda: _value(node), began_s)
            self._moves.append(ModelMove(name, model.size_bytes, self._load_s[name]))
            self._sync_pins()

    def _keep(self, name: str, load: Callable[[], NodeT], began_s: float) -> None:
        """Take a loaded node into the account, or hold one back that could not be loaded.  Raises NodeUnavailable."""
        try:
            node = load()
        except Exception as error:
            self._forget(name)
            reason = error.message if isinstance(error, CheckpointError) else f"{type(error).__name__}: {error}"
            self._quarantine.note_failure(name, reason, self._clock())
            log.warning("%s cannot be loaded and is held back: %s", name, reason)
            raise self._quarantined(name, reason) from error
        self._load_s[name] = self._clock() - began_s
        self._ledger.commit(name, load_s=self._load_s[name])
        self._quarantine.note_success(name)
        self._nodes[name] = node
        log.info("loaded %s in %.2f s", name, self._load_s[name])

    async def _reserve(self, name: str, size_bytes: int) -> None:
        """Make room for a node; wait for it while all that would have to go is in use.  Raises NodeError."""
        while True:
            decision = self._ledger.reserve(name, size_bytes, self._load_s[name])
            if isinstance(decision, Reservation):
                break
            if decision == ReservationRefused("too_large"):
                needs = f"{name} takes {size_bytes} bytes, and a worker has {self.max_bytes}; see `workers.max_bytes`"
                raise NodeError(needs, code="model_too_large")
            self._freed.clear()
            await self._freed.wait()
        for gone in decision.evict:
            log.info("evicting %s for %s", gone, name)
            self._nodes.pop(gone).close()
            self._evictions[gone] += 1
            self._moves.append(ModelMove(gone, self._models[gone].size_bytes, evicted_for=name))
        self._sync_pins()

    def _forget(self, name: str) -> None:
        """Take a node that did not load out of the account."""
        if name in self._pinned:
            self._pinned.discard(name)
            self._ledger.release(name)
        self._ledger.drop(name)
        self._freed.set()


def _value(loaded: NodeT | Exception) -> NodeT:
    if isinstance(loaded, Exception):
        raise loaded
    return loaded
