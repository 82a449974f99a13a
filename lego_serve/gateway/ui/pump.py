"""Keeps a watch up to date while somebody listens, by one task for all of them; without listeners nothing runs.

This gateway's jobs are looked at when something happens to them, and twice a second for their steps; replicas once a
second.  Other gateways answer when something happens there.  Looks that follow each other are kept apart by a gap, so
that a burst is one look, and by the time that one takes, so that they take a tenth of a processor at the most.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from time import perf_counter

from lego_serve.errors import CapacityError
from lego_serve.gateway.peers import MACHINE, Peer
from lego_serve.gateway.ui.watch import Watch

TICK_S = 0.5
GAP_S = 0.12
REPLICAS_S = 1.0
COSTS = 9.0  # times what a look took, it rests
MOST_LISTENERS = 32
log = logging.getLogger("lego_serve.gateway")


class Bell:
    """Wakes those that wait for the next ring; it may be rung from any thread."""

    def __init__(self) -> None:
        self.rings = 0
        self._waiting: set[asyncio.Future[None]] = set()

    def ring(self) -> None:
        """Ring it."""
        self.rings += 1
        for future in list(self._waiting):
            future.get_loop().call_soon_threadsafe(_wake, future)

    async def wait(self, rings: int, at_most_s: float) -> None:
        """Wait until it has been rung more often than so many times, or so many seconds."""
        if self.rings != rings or at_most_s <= 0:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            await asyncio.wait([future], timeout=at_most_s)
        finally:
            self._waiting.discard(future)


def _wake(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


async def _keep_on(work: Callable[[], Awaitable[None]]) -> None:
    """Do what has no end, and begin again after an error: those who listen would see nothing new any more."""
    while True:
        try:
            await work()
        except Exception:
            log.exception("a look at this server failed")
        await asyncio.sleep(REPLICAS_S)


class Pump:
    """Looks while there are listeners; ``bell`` is rung when something happens to this gateway's jobs."""

    def __init__(self, watch: Watch, bell: Bell) -> None:
        self._watch, self._bell, self._newer = watch, bell, Bell()
        self._open = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._followed: dict[Peer, asyncio.Task[None]] = {}

    def enter(self) -> None:
        """Count a listener in.  Raises CapacityError."""
        if self._open >= MOST_LISTENERS:
            message = f"{MOST_LISTENERS} dashboards look at this gateway, and no more can; close one."
            raise CapacityError(message, code="too_many_listeners")
        self._open += 1

    def leave(self) -> None:
        """Count one out; with the last one all ends."""
        self._open -= 1
        if self._open == 0:
            for task in (*self._tasks, *self._followed.values()):
                task.cancel()
            self._tasks, self._watch.is_kept = [], False
            self._followed.clear()

    async def start(self) -> None:
        """Begin, unless that was done; then all has been asked once."""
        await self._watch.refresh()
        if not self._tasks and self._open:
            self._watch.is_kept = True
            self._tasks = [asyncio.ensure_future(_keep_on(each)) for each in (self._look_here, self._look_around)]

    async def newer(self, version: int, at_most_s: float) -> bool:
        """Wait for a later version than this; whether there is one."""
        if self._watch.version == version:
            await self._newer.wait(self._newer.rings, at_most_s)
        return self._watch.version != version

    async def _look_here(self) -> None:
        while True:
            rings, began = self._bell.rings, perf_counter()
            self._watch.look_here()
            self._newer.ring()
            await asyncio.sleep(0)  # those who were woken make what they send
            await asyncio.sleep(0)
            rest_s = max(GAP_S, COSTS * (perf_counter() - began))
            await asyncio.sleep(rest_s)
            await self._bell.wait(rings, TICK_S - rest_s)

    async def _look_around(self) -> None:
        """Ask replicas, and see which gateways there are."""
        while True:
            await asyncio.sleep(REPLICAS_S)
            await self._watch.look_at_replicas()
            peers = [] if self._watch.peers is None else await self._watch.peers.current()
            for gone in set(self._followed) - set(peers):
                self._followed.pop(gone).cancel()
            for peer in peers:
                if peer not in self._followed:
                    self._followed[peer] = asyncio.ensure_future(_keep_on(partial(self._follow, peer)))

    async def _follow(self, peer: Peer) -> None:
        """Hear one gateway, or a machine, as soon as something happens there; of a machine others may answer."""
        rings, gap_s = -1, TICK_S if peer.asked_as == MACHINE else GAP_S
        while True:
            path = f"/v1/admin/part?since={self._watch.since}&wait={TICK_S}&rings={rings}"
            answer = await peer.ask(path)
            if answer is None:
                await asyncio.sleep(REPLICAS_S)
                continue
            self._watch.take(answer)
            if answer["rings"] != rings:
                rings = answer["rings"]
                self._bell.ring()
            await asyncio.sleep(gap_s)
