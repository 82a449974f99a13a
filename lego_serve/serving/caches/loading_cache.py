"""Caches loaded values by expected benefit, with one load per key shared by all its waiters.

``core.caching.ledger`` decides what is kept; this module has the values and their loads.  A value that is not worth
keeping is loaded all the same, and returned to its waiters.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from lego_serve.core.caching.ledger import CacheLedger, Reservation
from lego_serve.core.nodes.requests import MemoryUse

Value = TypeVar("Value")
FIRST_GUESS_S = 0.1  # the expected seconds of a load, before one was measured


@dataclass(frozen=True, slots=True)
class CacheResult(Generic[Value]):
    """A value; whether it was cached, and the seconds of its load where it was not."""

    value: Value
    hit: bool
    load_s: float = 0.0


class LoadingCache(Generic[Value]):
    """Caches values of at most ``max_bytes`` together; used from one event loop.

    A value that is not kept but has waiters stays until they have it, for ``linger_s`` at most.
    """

    def __init__(self, max_bytes: int, linger_s: float = 0.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._ledger = CacheLedger(max_bytes)
        self._values: dict[str, Value] = {}
        self._loads: dict[str, asyncio.Task[tuple[Value, float]]] = {}
        self._wanted: Counter[str] = Counter()  # waiters that started a load and have not fetched its value
        self._linger_s, self._clock = linger_s, clock
        self._load_s = FIRST_GUESS_S

    @property
    def ledger(self) -> CacheLedger:
        """The ledger, for inspection."""
        return self._ledger

    def __contains__(self, key: object) -> bool:
        """Return whether a value is cached."""
        return key in self._ledger

    @property
    def kept(self) -> tuple[str, ...]:
        """The keys of the cached values."""
        return tuple(self._values)

    async def get(self, key: str, size: int, load: Callable[[], Awaitable[Value]]) -> CacheResult[Value]:
        """Return a value, loading it if it is missing.  Raises its load's error; cancelling the wait stops no load."""
        if self._ledger.touch(key, self._clock()):
            return CacheResult(self._values[key], hit=True)
        value, load_s = await asyncio.shield(self.start_load(key, size, load, wanted=False))
        return CacheResult(value, hit=False, load_s=load_s)

    def touch(self, key: str) -> bool:
        """Count a request for a key whose value is fetched later; return whether it is cached."""
        return self._ledger.touch(key, self._clock())

    def start_load(
        self,
        key: str,
        size: int,
        load: Callable[[], Awaitable[Value]],
        *,
        wanted: bool = True,
        spent_s: float = 0.0,
    ) -> "asyncio.Task[tuple[Value, float]]":
        """Load a missing value, or join its load in progress; counts no request.

        ``wanted``: the caller will fetch the value later and then call ``release_waiter``.  ``spent_s``: the time of
        a part of the load that was done before.
        """
        if wanted:
            self._wanted[key] += 1
        if key not in self._loads:
            task = asyncio.ensure_future(self._load(key, size, load, spent_s))
            self._loads[key] = task
            task.add_done_callback(lambda done: self._end_load(key, done))
        return self._loads[key]

    def next_prefetch(self) -> str | None:
        """Return the next key to prefetch; None while a load runs."""
        if not all(load.done() for load in self._loads.values()):
            return None
        return next((wanted.key for wanted in self._ledger.prefetch_candidates(self._clock(), limit=1)), None)

    def release_waiter(self, key: str) -> None:
        """Record that one waiter has the value; drop it if it is not kept and nobody waits."""
        if self._wanted[key] > 1:
            self._wanted[key] -= 1
            return
        del self._wanted[key]
        load = self._loads.get(key)
        if load is not None and load.done():
            del self._loads[key]

    def peek(self, key: str) -> Value | None:
        """Return a cached value; None for one that is missing."""
        return self._values.get(key) if key in self._ledger else None

    def pin(self, key: str) -> bool:
        """Pin a value; return False if it is not cached."""
        if key not in self._ledger:
            return False
        self._ledger.pin(key)
        return True

    def release(self, key: str) -> None:
        """Remove a pin."""
        self._ledger.release(key)

    async def _load(
        self, key: str, size: int, load: Callable[[], Awaitable[Value]], spent_s: float
    ) -> tuple[Value, float]:
        if key in self._ledger:  # another load ended meanwhile
            return self._values[key], 0.0
        decision = self._ledger.reserve(key, size, self._load_s, optional=True)
        is_kept = isinstance(decision, Reservation)
        if isinstance(decision, Reservation):
            for gone in decision.evict:
                del self._values[gone]
        started = self._clock()
        try:
            value = await load()
        except BaseException:
            if is_kept:
                self._ledger.drop(key)
            raise
        self._load_s = spent_s + self._clock() - started
        if is_kept:
            self._values[key] = value
            self._ledger.commit(key, load_s=self._load_s)
        return value, self._load_s

    def _end_load(self, key: str, done: "asyncio.Task[tuple[Value, float]]") -> None:
        failed = (
            done.cancelled() or done.exception() is not None
        )  # read here, so that asyncio does not report it as never retrieved
        if failed or key in self._ledger or self._linger_s == 0 or not self._wanted[key]:
            self._forget(key, done)
        else:
            asyncio.get_running_loop().call_later(self._linger_s, self._forget, key, done)

    def _forget(self, key: str, done: "asyncio.Task[tuple[Value, float]]") -> None:
        if self._loads.get(key) is done:
            del self._loads[key], self._wanted[key]


def memory_of(kind: str, ledger: CacheLedger) -> MemoryUse:
    """Return what is kept of a kind of thing, by its ledger."""
    return MemoryUse(kind, ledger.used_bytes, ledger.budget_bytes, ledger.evicted)
