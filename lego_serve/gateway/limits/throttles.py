"""Keeps count of what tenants use of their quotas (GCRA): in Redis for all gateways, or in this process alone.

While Redis is away this process counts by itself, from nothing: limits then hold in each gateway, not in all together.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from throttled.asyncio import BaseStore, MemoryStore, RedisStore
from throttled.asyncio.store import BaseAtomicAction
from throttled.exceptions import StoreUnavailableError

from lego_serve.core.rate_limits import WINDOW_S, Quota, Standing
from lego_serve.gateway.limits.gcra import TakeAllFromMemory, TakeAllFromRedis
from lego_serve.jobstore.breaker import Breaker

log = logging.getLogger("lego_serve.gateway")
MAX_TENANTS = 100_000  # whose counts are kept in memory; those of the longest unseen go first
PREFIX = "lego:limits:v1:gcra"


@dataclass(frozen=True, slots=True)
class Taken:
    """What is left of a tenant's quotas after costs were taken, or were not since one quota has too little left.

    ``place`` is where it was counted, and where it is given back.
    """

    standings: tuple[Standing, ...]
    is_limited: bool
    place: BaseAtomicAction


class Throttles:
    """The counts of every tenant and quota; ``timeout_s`` is how long Redis is waited for, where not as usual."""

    def __init__(self, redis_url: str | None = None, timeout_s: float | None = None) -> None:
        memory: BaseStore = MemoryStore(options={"MAX_SIZE": MAX_TENANTS})
        self._memory = memory.make_atomic(TakeAllFromMemory)
        self._redis: BaseAtomicAction | None = None
        if redis_url is not None:
            self._redis = RedisStore(redis_url, _redis_options(timeout_s)).make_atomic(TakeAllFromRedis)
        self._breaker = Breaker(time.monotonic)

    async def peek(self, tenant: str, quotas: Sequence[Quota]) -> tuple[Standing, ...]:
        """Return what is left of a tenant's quotas."""
        return (await self.take(tenant, dict.fromkeys(quotas, 0))).standings

    async def take(self, tenant: str, costs: Mapping[Quota, int]) -> Taken:
        """Use so much of each of a tenant's quotas, or nothing of any where one has too little left."""
        if self._redis is not None and self._breaker.admits():
            try:
                taken = await _ask(self._redis, tenant, costs)
            except StoreUnavailableError as error:
                self._note_failure(error)
            else:
                self._breaker.note_success()
                return taken
        return await _ask(self._memory, tenant, costs)

    async def give_back(self, tenant: str, costs: Mapping[Quota, int], taken: Taken) -> tuple[Standing, ...]:
        """Give back what was taken, and return what is left then; it stays used where Redis has gone away meanwhile."""
        try:
            given = await _ask(taken.place, tenant, {quota: -cost for quota, cost in costs.items()})
        except StoreUnavailableError as error:
            self._note_failure(error)
            return taken.standings
        return given.standings

    def _note_failure(self, error: StoreUnavailableError) -> None:
        if not self._breaker.is_open:
            log.warning("limits are counted in this gateway alone: %r", error.__cause__)
        self._breaker.note_failure()


async def _ask(place: BaseAtomicAction, tenant: str, costs: Mapping[Quota, int]) -> Taken:
    keys = [f"{PREFIX}:{quota.name}:{tenant}" for quota in costs]
    numbers = [number for quota, cost in costs.items() for number in (WINDOW_S / quota.limit, quota.limit, cost)]
    is_limited, *left = await place.do(keys, numbers)
    pairs = zip(costs, left[::2], left[1::2], strict=True)
    standings = tuple(Standing(quota, int(remaining), reset_s) for quota, remaining, reset_s in pairs)
    return Taken(standings, bool(is_limited), place)


def _redis_options(timeout_s: float | None) -> dict[str, Any]:
    """Return options by which a call neither waits long nor is repeated."""
    from lego_serve.jobstore.redis_client import TIMEOUT_S, patience

    return {"CONNECTION_POOL_KWARGS": patience(timeout_s or TIMEOUT_S)}
