"""Batches waiting items: those that arrive while a batch runs form the next one."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class MicroBatcher(Generic[Item, Result]):
    """Runs ``compute`` on one thread over at most ``max_batch`` waiting items at a time."""

    def __init__(self, compute: Callable[[Sequence[Item]], Sequence[Result]], max_batch: int) -> None:
        self._compute, self._max_batch = compute, max_batch
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="compute")
        self._task: asyncio.Task[None] | None = None

    async def run(self, item: Item) -> Result:
        """Return the result of one item.  Raises the error of ``compute`` for its batch."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._drain())
        return await future

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(self._max_batch, len(self._waiting)))]
            batch = [(item, future) for item, future in batch if not future.done()]
            if not batch:
                continue
            try:
                results = await loop.run_in_executor(self._executor, self._compute, [item for item, _ in batch])
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), result in zip(batch, results, strict=True):
                if not future.done():
                    future.set_result(result)
