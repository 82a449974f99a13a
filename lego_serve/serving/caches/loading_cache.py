"""Loaded things kept by expected benefit: one load at a time for a key, shared by all who ask meanwhile.

``core/ledger`` decides what is kept; here are the values and their loads.  What is not worth keeping is loaded all
the same, and handed to those who asked.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from lego_serve.core.caching.ledger import CacheLedger, Reservation

Value = TypeVar("Value")
FIRST_GUESS_S = 0.1  # what a load takes, before one has been seen


@dataclass(frozen=True, slots=True)
class CacheResult(Generic[Value]):
    """A value, whether it was here when it was asked for, and what its load took where it was not."""

    value: Value
    hit: bool
    load_s: float = 0.0


class LoadingCache(Generic[Value]):
    """The values of one memory of so many bytes; used from one event loop.

    A value that is not kept and was begun for somebody who asks later waits until they have, ``linger_s`` at most.
    """

    def __init__(self, max_bytes: int, linger_s: float = 0.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._ledger = CacheLedger(max_bytes)
        self._values: dict[str, Value] = {}
        self._loads: dict[str, asyncio.Task[tuple[Value, float]]] = {}
        self._wanted: Counter[str] = Counter()  # how many have begun a load and not yet asked for its value
        self._linger_s, self._clock = linger_s, clock
        self._load_s = FIRST_GUESS_S

    @property
    def ledger(self) -> CacheLedger:
        """The account; to be looked at."""
        return self._ledger

    def __contains__(self, key: object) -> bool:
        """Whether a value is here."""
        return key in self._ledger

    @property
    def kept(self) -> tuple[str, ...]:
        """The keys of the values that are here."""
        return tuple(self._values)

    async def get(self, key: str, size: int, load: Callable[[], Awaitable[Value]]) -> CacheResult[Value]:
        """A value, loaded if it is not here.  Raises what its load raised; giving up the wait does not stop a load."""
        if self._ledger.touch(key, self._clock()):
            return CacheResult(self._values[key], hit=True)
        value, load_s = await asyncio.shield(self.start_load(key, size, load, wanted=False))
        return CacheResult(value, hit=False, load_s=load_s)

    def touch(self, key: str) -> bool:
        """Count a request for a key whose value is asked for later; answers whether it is here."""
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
        """Load a value that is not here, or join the load that is going on; counts no request.

        ``wanted``: whoever begins it is to ask for it later, and then to say so by `collected`.  ``spent_s`` were taken
        by a part of the load that was done before.
        """
        if wanted:
            self._wanted[key] += 1
        if key not in self._loads:
            task = asyncio.ensure_future(self._load(key, size, load, spent_s))
            self._loads[key] = task
            task.add_done_callback(lambda done: self._loaded(key, done))
        return self._loads[key]

    def next_prefetch(self) -> str | None:
        """What is likely to be asked for soon and is not here; nothing while anything is being loaded."""
        if not all(load.done() for load in self._loads.values()):
            return None
        return next((wanted.key for wanted in self._ledger.prefetch_candidates(self._clock(), limit=1)), None)

    def release_waiter(self, key: str) -> None:
        """One of those who began a load has its value; what nobody else waits for and is not kept is let go."""
        if self._wanted[key] > 1:
            self._wanted[key] -= 1
            return
        del self._wanted[key]
        load = self._loads.get(key)
        if load is not None and load.done():
            del self._loads[key]

    def peek(self, key: str) -> Value | None:
        """A value that is here; None for one that is not."""
        return self._values.get(key) if key in self._ledger else None

    def pin(self, key: str) -> bool:
        """Keep a value while it is used; False where it is not kept here, and whoever has it has it alone."""
        if key not in self._ledger:
            return False
        self._ledger.pin(key)
        return True

    def release(self, key: str) -> None:
        """Take back a pin."""
        self._ledger.release(key)

    async def _load(
        self, key: str, size: int, load: Callable[[], Awaitable[Value]], spent_s: float
    ) -> tuple[Value, float]:
        if key in self._ledger:  # it came between the look and the asking
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

    def _loaded(self, key: str, done: "asyncio.Task[tuple[Value, float]]") -> None:
        failed = done.cancelled() or done.exception() is not None  # asked for here, so that none is reported as unheard
        if failed or key in self._ledger or self._linger_s == 0 or not self._wanted[key]:
            self._forget(key, done)
        else:
            asyncio.get_running_loop().call_later(self._linger_s, self._forget, key, done)

    def _forget(self, key: str, done: "asyncio.Task[tuple[Value, float]]") -> None:
        if self._loads.get(key) is done:
            del self._loads[key], self._wanted[key]
