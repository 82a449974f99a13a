"""Turns at the thread of uploads, one request at a time, by tenant and weight."""

import asyncio
from dataclasses import dataclass

from lego_serve.core.scheduling.fairness import FairShares


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    tenant: str
    turn: "asyncio.Future[None]"


class Turns:
    """Gives one turn at a time to the tenant that has had least, and among its requests to the one that came first."""

    def __init__(self) -> None:
        self._shares = FairShares()
        self._waiting: list[_Waiting] = []
        self._is_taken = False

    async def begin(self, tenant: str) -> None:
        """Wait for a turn; whoever returns from here must ``end`` it."""
        mine = _Waiting(tenant, asyncio.get_running_loop().create_future())
        self._waiting.append(mine)
        self._give_next()
        try:
            await mine.turn
        except asyncio.CancelledError:
            if mine.turn.cancelled():
                self._waiting.remove(mine)
            else:  # its turn had just come
                self.end({})
            raise

    def end(self, costs: dict[str, float]) -> None:
        """End a turn; ``costs``: what it took, divided by its tenant's weight."""
        self._shares.charge(costs)
        self._is_taken = False
        self._give_next()

    def _give_next(self) -> None:
        waiting = [each for each in self._waiting if not each.turn.done()]
        if self._is_taken or not waiting:
            return
        first = min(waiting, key=lambda each: self._shares.level(each.tenant))
        self._waiting.remove(first)
        self._is_taken = True
        first.turn.set_result(None)
