"""Batches waiting items by turns of their tenants: those that arrive while a batch runs form the next ones."""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from lego_serve.core.scheduling.fairness import FairShares
from lego_serve.engine.sharing.compute_turns import ComputeTurns

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Turn:
    """Whose item it is, and what it takes of the tenant's share: its work divided by the tenant's weight."""

    tenant: str = "default"
    cost: float = 1.0


@dataclass(frozen=True, slots=True)
class _Waiting(Generic[Item, Result]):
    """An item that waits, and who waits for its result."""

    item: Item
    turn: Turn
    future: "asyncio.Future[Result]"


class MicroBatcher(Generic[Item, Result]):
    """Runs ``compute`` on one thread over at most ``max_batch`` waiting items at a time."""

    def __init__(
        self,
        compute: Callable[[Sequence[Item]], Sequence[Result]],
        max_batch: int,
        turns: ComputeTurns | None = None,
    ) -> None:
        """``turns``: those of all that compute in this process, where that is more than this batcher."""
        self._compute, self.max_batch, self._turns = compute, max_batch, turns or ComputeTurns()
        self._waiting: list[_Waiting[Item, Result]] = []
        self._shares = FairShares()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="compute")
        self._task: asyncio.Task[None] | None = None
        self.running = 0  # items of the batch under way

    @property
    def waiting(self) -> int:
        """How many items wait for their batch."""
        return len(self._waiting)

    async def run(self, item: Item, turn: Turn = Turn()) -> Result:
        """Return the result of one item.  Raises the error of ``compute`` for its batch."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(item, turn, future))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._drain())
        return await future

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        while batch := self._next_batch():
            self.running = len(batch)
            try:
                items = [waiting.item for waiting in batch]
                results = await loop.run_in_executor(self._executor, self._in_turn, items)
            except Exception as error:
                for waiting in batch:
                    if not waiting.future.done():
                        waiting.future.set_exception(error)
                continue
            for waiting, result in zip(batch, results, strict=True):
                if not waiting.future.done():
                    waiting.future.set_result(result)
        self.running = 0

    def close(self) -> None:
        """End its thread, after the batch under way; it waits for that, on any thread."""
        self._executor.shutdown()

    def _in_turn(self, items: Sequence[Item]) -> Sequence[Result]:
        """Compute a batch; it is short, and goes before steps, which are due when their images are."""
        with self._turns.turn(time.monotonic()):
            return self._compute(items)

    def _next_batch(self) -> list[_Waiting[Item, Result]]:
        """Take the next items out of those waiting, without those that nobody waits for any more."""
        waiting = [each for each in self._waiting if not each.future.done()]
        ordered = self._shares.order(waiting, lambda each: each.turn.tenant, lambda each: each.turn.cost)
        batch = ordered[: self.max_batch]
        taken = set(map(id, batch))
        self._waiting = [each for each in waiting if id(each) not in taken]
        costs: dict[str, float] = {}
        for each in batch:
            costs[each.turn.tenant] = costs.get(each.turn.tenant, 0.0) + each.turn.cost
        self._shares.charge(costs)
        return batch
