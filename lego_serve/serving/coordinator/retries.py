"""When the calls of one process are made again: after a pause that is drawn, and once the budget has room."""

import asyncio
import random
from collections.abc import Callable, Iterator

from lego_serve.core.scheduling.retry import RetryBudget, RetryPolicy


class Retries:
    """The calls that one coordinator makes again, of whatever kind; ``chance`` draws from 0 to 1."""

    def __init__(self, clock: Callable[[], float], chance: Callable[[], float] = random.random) -> None:
        self._clock, self._chance = clock, chance
        self._budget: RetryBudget | None = None  # made when it is needed: a loop's clock is known only while it runs
        self._turn = asyncio.Lock()

    def request_begins(self) -> None:
        """A request has come, and with it a part of a call that may be made again."""
        self._known_budget.request_begins(self._clock())

    def pauses(self, policy: RetryPolicy) -> Iterator[float]:
        """Yield the pauses of a policy, as they are drawn."""
        return policy.drawn(self._chance)

    async def turn(self, pause_s: float = 0.0) -> None:
        """Wait for a pause and then until the budget has room for one call, first come first served."""
        await asyncio.sleep(pause_s)
        async with self._turn:
            while (wait_s := self._known_budget.take(self._clock())) > 0:
                await asyncio.sleep(wait_s)

    @property
    def _known_budget(self) -> RetryBudget:
        if self._budget is None:
            self._budget = RetryBudget(self._clock())
        return self._budget
