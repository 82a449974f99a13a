"""The threads that do a gateway's work on images: no pixel is touched on the event loop."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class ImageWorkers:
    """Two threads, so two images at a time: one reads uploads, one writes answers, which wait for no upload.

    A thread of uploads also bounds memory: one large image is decoded at a time.  Threads start with their first work.
    """

    def __init__(self) -> None:
        self._uploads = ThreadPoolExecutor(1, "uploads")
        self._answers = ThreadPoolExecutor(1, "answers")

    async def read(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run work on an upload, after what came before it; it is dropped if the caller is cancelled first."""
        return await asyncio.wrap_future(self._uploads.submit(work, *args, **kwargs))

    async def write(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run work on an image of an answer, likewise."""
        return await asyncio.wrap_future(self._answers.submit(work, *args, **kwargs))
