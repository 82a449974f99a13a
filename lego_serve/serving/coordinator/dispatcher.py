"""The dispatcher of a cell of shared workers: the core's book, asked by several gateways.

It runs in a process of its own, which imports neither torch nor what gateways do; whoever starts it there is no matter
of this module.
"""

import time
from collections.abc import Callable, Collection
from typing import Protocol

from lego_serve.core.placement.dispatch_messages import DispatcherAnswer, Expectation, GatewayReport, JobOffer
from lego_serve.core.placement.shared_pools import SharedPools


class Dispatcher(Protocol):
    """A dispatcher as gateways see it."""

    async def hear(self, report: GatewayReport) -> DispatcherAnswer:
        """Take a report; return where the gateway's jobs are.  Raises DispatcherGone."""
        ...

    async def offer(self, offer: JobOffer) -> Expectation | None:
        """Say when a newcomer would end, and keep its place if that is in time; None where that cannot be known.

        Raises DispatcherGone.
        """
        ...


class CellDispatcher:
    """Places the jobs of all gateways on the workers of one cell; ``shared``: the applications of shared workers."""

    def __init__(self, shared: Collection[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._pools, self._clock = SharedPools(shared), clock

    async def hear(self, report: GatewayReport) -> DispatcherAnswer:
        """Take a report; return where the gateway's jobs are."""
        return self._pools.hear(report, self._clock())

    async def offer(self, offer: JobOffer) -> Expectation | None:
        """Say when a newcomer would end, and keep its place if that is in time; None where no worker is known."""
        return self._pools.offer(offer, self._clock())

    async def placed(self) -> dict[str, dict[str, str]]:
        """The gateways that it knows, each with its jobs and their workers, for whoever looks into it."""
        return self._pools.placed
