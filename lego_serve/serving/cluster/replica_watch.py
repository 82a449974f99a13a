"""Watches the calls of one deployment that are out: asks its replicas while a call is silent, and ends those that hang.

What is to be given up is decided by ``core/scheduling/liveness``; here are the questions and those who wait.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from typing import Any, TypeVar

from lego_serve.core.nodes.requests import CallsInHand
from lego_serve.core.scheduling.liveness import PATIENCE_S, ReplicaLiveness
from lego_serve.serving.errors import NodeHung, NodeLost

Result = TypeVar("Result")
Answers = AsyncIterator[tuple[str, CallsInHand]]
LOOK_S = 0.5


class WatchedCall:
    """A call that is out, for the one who waits for it."""

    def __init__(self, heard: Callable[[str], None]) -> None:
        self.heard = heard  # called with the replica's id, or with nothing where it is not told
        self.given_up: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def wait_for(self, work: Awaitable[Result]) -> Result:
        """Return what comes of some work.  Raises NodeHung as soon as the call is given up."""
        task = asyncio.ensure_future(work)
        try:
            either: set[asyncio.Future[Any]] = {task, self.given_up}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise NodeHung("its replica does not answer")
            return task.result()
        finally:
            if not task.done():
                task.add_done_callback(_take_note)
                task.cancel()


class ReplicaWatch:
    """The calls of one process to one deployment.

    ``ask`` yields what replicas have in hand as they answer; ``replicas`` are those that there are; ``note_hung`` is
    called with the replicas that hung until now and with those that do.
    """

    def __init__(
        self,
        ask: Callable[[], Answers],
        replicas: Callable[[], Collection[str]],
        note_hung: Callable[[Collection[str], Collection[str]], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask, self._replicas, self._note_hung, self._clock = ask, replicas, note_hung, clock
        self._liveness = ReplicaLiveness()
        self._calls: dict[str, WatchedCall] = {}
        self._hung: frozenset[str] = frozenset()
        self._watching: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def over(self, key: str, hangs: int) -> Iterator[WatchedCall]:
        """Watch a call, by a key of its own, that was given up ``hangs`` times before."""
        self._liveness.begin(key, hangs, self._clock())
        call = self._calls[key] = WatchedCall(lambda replica: self._liveness.heard(key, self._clock(), replica))
        if self._watching is None or self._watching.done():
            self._watching = asyncio.get_running_loop().create_task(self._watch())
        try:
            yield call
        finally:
            del self._calls[key]
            self._liveness.end(key)

    async def _watch(self) -> None:
        """Look now and then, as long as a call is out or a replica hangs."""
        asking: asyncio.Task[None] | None = None
        try:
            while self._calls or self._hung:
                await asyncio.sleep(LOOK_S)
                if (asking is None or asking.done()) and self._liveness.is_due(self._clock()):
                    asking = asyncio.get_running_loop().create_task(self._ask_all())
                self._judge()
        finally:
            if asking is not None:
                asking.cancel()

    async def _ask_all(self) -> None:
        """Ask all replicas once; those that have not answered within PATIENCE_S are asked again later."""
        replicas = self._replicas()
        self._liveness.asked(replicas, self._clock())
        try:
            async with asyncio.timeout(PATIENCE_S):
                async with contextlib.aclosing(self._ask()) as answers:  # type: ignore[type-var]
                    async for replica, calls in answers:
                        self._liveness.answered(replica, calls.keys, calls.step, self._clock())
        except (TimeoutError, NodeLost):
            pass
        self._liveness.settle(self._clock())

    def _judge(self) -> None:
        now = self._clock()
        hung = self._liveness.hung(now)
        if hung != self._hung:
            self._note_hung(self._hung, hung)
            self._hung = hung
        for key in self._liveness.lost(now):
            if not self._calls[key].given_up.done():
                self._calls[key].given_up.set_result(None)


def _take_note(task: "asyncio.Future[Result]") -> None:
    """Whatever comes of work that is given up: nobody waits for it."""
    if not task.cancelled():
        task.exception()
