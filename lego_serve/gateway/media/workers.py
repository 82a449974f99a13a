"""The threads that do a gateway's work on images: none is decoded, resized or compared on the event loop."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, ParamSpec, TypeVar

from lego_serve.gateway.media.turns import Turns

P = ParamSpec("P")
R = TypeVar("R")


class UploadThread:
    """The thread of uploads, for a request that has its turn."""

    def __init__(self, thread: ThreadPoolExecutor) -> None:
        self._thread = thread
        self.running: asyncio.Future[Any] | None = None  # goes on where its caller is cancelled

    async def read(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run work on an upload."""
        running = asyncio.wrap_future(self._thread.submit(work, *args, **kwargs))
        self.running = running
        return await asyncio.shield(running)


class ImageWorkers:
    """Two threads, so two images at a time: one reads uploads, one writes answers, which wait for no upload.

    A thread of uploads also bounds memory: one large image is decoded at a time, and a request keeps its turn until
    its images have the sizes its job needs.  Threads start with their first work.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._uploads = ThreadPoolExecutor(1, "uploads")
        self._answers = ThreadPoolExecutor(1, "answers")
        self._turns = Turns()

    @asynccontextmanager
    async def turn(self, tenant: str, weight: float = 1.0) -> AsyncIterator[UploadThread]:
        """Yield the thread of uploads for the images of one request; tenants take turns by weight and time taken."""
        await self._turns.begin(tenant)
        started, thread = self._clock(), UploadThread(self._uploads)

        def end(_: object = None) -> None:
            self._turns.end({tenant: (self._clock() - started) / weight})

        try:
            yield thread
        finally:
            if thread.running is None or thread.running.done():
                end()
            else:
                thread.running.add_done_callback(end)

    async def write(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run work on an image of an answer, after what came before it; it is dropped if the caller is cancelled."""
        return await asyncio.wrap_future(self._answers.submit(work, *args, **kwargs))
