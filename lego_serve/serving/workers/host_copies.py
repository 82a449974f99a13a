"""Keeps the weights of evicted nodes in host memory, as far as they fit, until the nodes are wanted again.

``core.caching.host_ledger`` decides which.  On a CPU a node has nothing on another device, and nothing is kept.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol, TypeVar

from lego_serve.core.caching.host_ledger import HostLedger
from lego_serve.core.jobs.job import ModelMove

log = logging.getLogger("lego_serve.workers")
ValueT = TypeVar("ValueT")


class Copy(Protocol):
    """Weights in host memory, and their bytes."""

    size_bytes: int

    def drop(self) -> None:
        """Let go of the memory."""
        ...


class Evictable(Protocol):
    """A node that lets go of what it has when it is evicted; all of it runs off the event loop."""

    def close(self) -> None:
        """Let go of threads and memory; nothing is in hand.  It may wait for a step."""
        ...

    def stop(self) -> int:
        """Let go of threads alone; return the bytes of its weights that lie on another device than the CPU."""
        ...

    def to_host(self) -> Copy:
        """Move the weights of a node that has stopped to host memory."""
        ...


@dataclass(frozen=True, slots=True)
class _Kept:
    """A copy, and the state of the files that its weights were read from."""

    copy: Copy
    files: object


class HostCopies:
    """The weights of one worker's evicted nodes, by name; used from one event loop, for one node at a time."""

    def __init__(self, budget_bytes: int) -> None:
        self._ledger = HostLedger(budget_bytes)
        self._copies: dict[str, _Kept] = {}
        self._files: dict[str, object] = {}  # of each node before its last load; None where that cannot be told
        self._used_s: dict[str, float] = {}  # when each node was last used or wanted
        self._dropped: Counter[str] = Counter()

    @property
    def budget_bytes(self) -> int:
        """The bytes that may be used."""
        return self._ledger.budget_bytes

    @property
    def used_bytes(self) -> int:
        """The bytes of all copies."""
        return self._ledger.used_bytes

    def bytes_of(self, name: str) -> int:
        """The bytes of a node's copy; 0 where there is none."""
        return self._ledger.bytes_of(name)

    def dropped_of(self, name: str) -> int:
        """How often a node's copy has made room for others."""
        return self._dropped[name]

    def note_use(self, names: Collection[str], now: float) -> None:
        """Note that nodes are used, or will be next: of what is evicted, those are kept first."""
        for name in names:
            self._used_s[name] = now
            self._ledger.touch(name, now)

    def note_files(self, name: str, files: Callable[[], object]) -> None:
        """Note the state of the files that a node is about to be loaded from; reads it, and may take a while."""
        state = outcome(files) if self._ledger.budget_bytes else None
        self._files[name] = None if isinstance(state, Exception) else state  # the load says what is wrong

    async def take(self, name: str, files: Callable[[], object]) -> Copy | None:
        """Return a node's copy, which is the caller's then; None where it is to be loaded from its files.

        So it is where these were replaced after the weights were read from them.
        """
        await asyncio.to_thread(self.note_files, name, files)
        kept = self._copies.pop(name, None)
        self._ledger.take(name)
        if kept is None:
            return None
        if kept.files == self._files[name]:
            return kept.copy
        log.info("the files of %s have changed: its weights in host memory are of no use", name)
        kept.copy.drop()
        return None

    async def let_go(self, name: str, node: Evictable) -> tuple[bool, Collection[ModelMove]]:
        """Close an evicted node, whose last step may still run.

        Returns whether its weights are kept, and what has left host memory for them.
        """
        gone: tuple[str, ...] | None = None
        if self._ledger.budget_bytes and self._files.get(name) is not None:
            size = await asyncio.to_thread(outcome, node.stop)
            if isinstance(size, int) and size > 0:
                gone = self._ledger.admit(name, size, self._used_s.get(name, 0.0))
        if gone is None:
            await self._close(node)
            return False, ()
        moves = [self._drop(each, name) for each in gone]
        copy = await asyncio.to_thread(outcome, node.to_host)
        if isinstance(copy, Exception):
            log.error("the weights of %s do not go to host memory; are there so many bytes?", name, exc_info=copy)
            self._ledger.take(name)
            await self._close(node)
            return False, moves
        self._copies[name] = _Kept(copy, self._files[name])
        return True, moves

    def _drop(self, name: str, for_name: str) -> ModelMove:
        copy = self._copies.pop(name).copy
        copy.drop()
        self._dropped[name] += 1
        return ModelMove(name, copy.size_bytes, evicted_for=for_name, leaves_host=True)

    async def _close(self, node: Evictable) -> None:
        failed = await asyncio.to_thread(outcome, node.close)
        if isinstance(failed, Exception):  # it has its memory or not: the load says so
            log.error("an evicted node could not be closed", exc_info=failed)


def outcome(work: Callable[[], ValueT]) -> ValueT | Exception:
    """Return what work comes to, or why it fails."""
    try:
        return work()
    except Exception as error:
        return error
