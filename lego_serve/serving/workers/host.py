"""Loads, keeps and evicts nodes under a byte budget, for the calls of one worker's event loop.

``core.caching.ledger`` decides what is evicted: the least expected benefit a byte first, and nothing that a call uses,
that is loading, or that an admitted job needs next.  One node loads at a time, in the order in which they are asked
for.  A node that cannot be loaded is held back for a while; the others go on.  What is evicted may keep its weights in
host memory; see ``host_copies``.
"""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Generic, NoReturn, TypeVar

from lego_serve.core.caching.expectations import Expectations
from lego_serve.core.caching.ledger import CacheLedger, Reservation, ReservationRefused
from lego_serve.core.caching.quarantine import Failure, Quarantine
from lego_serve.core.jobs.job import ModelMove
from lego_serve.errors import CheckpointError, NodeError, NodeUnavailable
from lego_serve.serving.workers.host_copies import Copy, Evictable, HostCopies, outcome

FIRST_GUESS_S = 1.0  # the expected seconds of a load, before one was measured
log = logging.getLogger("lego_serve.workers")
NodeT = TypeVar("NodeT", bound=Evictable)


@dataclass(frozen=True, slots=True)
class Lease(Generic[NodeT]):
    """A node for one call, and the seconds that the call waited for it."""

    node: NodeT
    load_s: float


@dataclass(frozen=True, slots=True)
class HostedModel(Generic[NodeT]):
    """The bytes that a node takes at the most, and how it is loaded; both off the event loop, at each load anew.

    ``size_bytes`` raises where it cannot be told, for its files may be away for a while: nothing is loaded then.
    ``load`` is given the weights where host memory has them.  ``files``: the state of its files, another one once any
    of them is replaced, and None where that would not show.
    """

    size_bytes: Callable[[], int]
    load: Callable[[Copy | None], NodeT]
    files: Callable[[], object] = lambda: ()


class ModelHost(Generic[NodeT]):
    """The nodes of one worker, by name; used from one event loop."""

    def __init__(
        self,
        models: Mapping[str, HostedModel[NodeT]],
        max_bytes: int,
        clock: Callable[[], float] = time.monotonic,
        quarantine: Quarantine | None = None,
        expected: Expectations | None = None,
        host_bytes: int = 0,
    ) -> None:
        self._models, self._clock = models, clock
        self.copies = HostCopies(host_bytes)
        self._ledger = CacheLedger(max_bytes)
        self._quarantine = quarantine or Quarantine()
        self._expected = expected or Expectations()
        self._nodes: dict[str, NodeT] = {}
        self._loads: dict[str, asyncio.Task[None]] = {}
        self._load_s = dict.fromkeys(models, FIRST_GUESS_S)
        self._sizes: dict[str, int] = {}  # as of the last load
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
        return self._sizes[name] if name in self._nodes else 0

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
        try:
            with self._expected.holding([name]):
                load_s = 0.0
                if name not in self._nodes:
                    await self._loaded(name)
                    load_s = self._clock() - began_s
                with self._expected.holding(next_names):  # not sooner: a call that waits for room must not hold any
                    self._sync_pins()
                    self._load_ahead(next_names)
                    yield Lease(self._nodes[name], load_s)
        finally:
            self._expect(job_id, next_names)

    def preload(self, names: Collection[str]) -> None:
        """Load nodes one after the other as long as there is room; blocks, and is for the start of the worker."""
        for name in names:
            with contextlib.suppress(NodeUnavailable):  # the log has it, and so does the quarantine
                size_bytes = self._size(name, outcome(self._models[name].size_bytes))
                if size_bytes <= self._ledger.budget_bytes - self._ledger.used_bytes:
                    self._ledger.reserve(name, size_bytes, self._load_s[name])
                    began_s = self._clock()
                    self.copies.note_files(name, self._models[name].files)
                    self._keep(name, outcome(partial(self._models[name].load, None)), began_s)

    def _expect(self, job_id: str | None, names: Collection[str]) -> None:
        known, now = [name for name in names if name in self._models], self._clock()
        self.copies.note_use(known, now)
        if job_id is not None:
            self._expected.expect(job_id, known, now)
        self._sync_pins()

    def _sync_pins(self) -> None:
        """Pin what is used or needed next, and no more; whoever waits for room looks again."""
        wanted = self._expected.keys(self._clock())
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
            if name in self._models and name not in self._nodes and self._failure(name) is None:
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
            if (failure := self._failure(name)) is not None:
                raise held_back(name, failure, self._clock())
            await asyncio.shield(self._start(name))

    def _failure(self, name: str) -> Failure | None:
        return self._quarantine.held_back(name, self._clock())

    async def _load(self, name: str) -> None:
        model = self._models[name]
        async with self._turn:
            await self._reserve(name, self._size(name, await asyncio.to_thread(outcome, model.size_bytes)))
            began_s = self._clock()
            copy = await self.copies.take(name, model.files)
            self._keep(name, await asyncio.to_thread(outcome, partial(model.load, copy)), began_s)
            self._moves.append(ModelMove(name, self._sizes[name], self._load_s[name], via_host=copy is not None))
            self._sync_pins()

    def _size(self, name: str, size_bytes: int | Exception) -> int:
        """Return the bytes that a node is to be loaded in, or hold it back.  Raises NodeUnavailable."""
        if isinstance(size_bytes, Exception):
            self._hold_back(name, size_bytes)
        self._sizes[name] = size_bytes
        return size_bytes

    def _keep(self, name: str, node: NodeT | Exception, began_s: float) -> None:
        """Take a loaded node into the account, or hold one back that could not be loaded.  Raises NodeUnavailable."""
        if isinstance(node, Exception):
            self._forget(name)
            self._hold_back(name, node)
        self._load_s[name] = self._clock() - began_s
        self._ledger.commit(name, load_s=self._load_s[name])
        self._quarantine.note_success(name)
        self._nodes[name] = node
        log.info("loaded %s in %.2f s", name, self._load_s[name])

    def _hold_back(self, name: str, error: Exception) -> NoReturn:
        """Try a node no more for a while.  Raises NodeUnavailable."""
        reason = error.message if isinstance(error, CheckpointError) else f"{type(error).__name__}: {error}"
        now = self._clock()
        failure = self._quarantine.note_failure(name, reason, now)
        log.warning("%s cannot be loaded and is held back for %.0f s: %s", name, failure.until_s - now, reason)
        raise held_back(name, failure, now) from error

    async def _reserve(self, name: str, size_bytes: int) -> None:
        """Make room for a node; wait for it while all that would have to go is in use.  Raises NodeError."""
        while True:
            self._sync_pins()
            decision = self._ledger.reserve(name, size_bytes, self._load_s[name])
            if isinstance(decision, Reservation):
                break
            if decision == ReservationRefused("too_large"):
                needs = f"{name} takes {size_bytes} bytes, and a worker has {self.max_bytes}; see `workers.max_bytes`"
                raise NodeError(needs, code="model_too_large")
            await self._changed()
        for gone, node in [(gone, self._nodes.pop(gone)) for gone in decision.evict]:
            self._evictions[gone] += 1
            is_kept, dropped = await self.copies.let_go(gone, node)
            self._moves += (ModelMove(gone, self._sizes[gone], evicted_for=name, via_host=is_kept), *dropped)
            log.info("evicted %s for %s; its weights are in host memory: %s", gone, name, is_kept)
        self._sync_pins()

    async def _changed(self) -> None:
        """Wait until there may be room: something was let go of, or the next expectation has ended."""
        self._freed.clear()
        ends_s = self._expected.ends_s()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if ends_s is None else max(0.001, ends_s - self._clock())):
                await self._freed.wait()

    def _forget(self, name: str) -> None:
        """Take a node that did not load out of the account."""
        if name in self._pinned:
            self._pinned.discard(name)
            self._ledger.release(name)
        self._ledger.drop(name)
        self._freed.set()


def held_back(name: str, failure: Failure, now: float) -> NodeUnavailable:
    """Return what a caller hears of a node that is held back: when to come again; the reason is its operator's."""
    wait_s = max(1.0, failure.until_s - now)
    told = f"{name} could not be loaded and is held back for {wait_s:.0f} s"
    where = "its operator finds the reason in the log and under decisions"
    error = NodeUnavailable(f"{told}; try again then, {where}.", code="model_quarantined")
    error.retry_after_s, error.operator_reason = wait_s, f"{name}: {failure.reason}"
    return error
