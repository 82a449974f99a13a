"""Keeps count of what tenants use of their quotas (GCRA): in Redis for all gateways, or in this process alone.

While Redis is away this process counts by itself, from nothing: limits then hold in each gateway, not in all together.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from throttled.asyncio import BaseStore, MemoryStore, RedisStore, Throttled, per_duration
from throttled.exceptions import StoreUnavailableError

from lego_serve.core.rate_limits import WINDOW_S, Quota, Standing
from lego_serve.jobstore.breaker import Breaker

log = logging.getLogger("lego_serve.gateway")
MAX_TENANTS = 100_000  # whose counts are kept in memory; those of the longest unseen go first
PREFIX = "lego:limits"


class Throttles:
    """The counts of every tenant and quota; ``timeout_s`` is how long Redis is waited for, where not as usual."""

    def __init__(self, redis_url: str | None = None, timeout_s: float | None = None) -> None:
        self._memory: BaseStore = MemoryStore(options={"MAX_SIZE": MAX_TENANTS})
        self._redis = None if redis_url is None else RedisStore(redis_url, _redis_options(timeout_s))
        self._breaker = Breaker(time.monotonic)
        self._throttles: dict[tuple[BaseStore, Quota], Throttled] = {}

    async def peek(self, tenant: str, quotas: Sequence[Quota]) -> tuple[Standing, ...]:
        """Return what is left of a tenant's quotas."""
        return await self._ask(tenant, dict.fromkeys(quotas, 0))

    async def take(self, tenant: str, costs: Mapping[Quota, int]) -> tuple[Standing, ...]:
        """Use so much of each of a tenant's quotas, as far as each has it, and return what is left."""
        return await self._ask(tenant, costs)

    async def _ask(self, tenant: str, costs: Mapping[Quota, int]) -> tuple[Standing, ...]:
        if self._redis is not None and self._breaker.admits():
            try:
                standings = await self._ask_store(self._redis, tenant, costs)
            except StoreUnavailableError as error:
                if not self._breaker.is_open:
                    log.warning("limits are counted in this gateway alone: %r", error.__cause__)
                self._breaker.note_failure()
            else:
                self._breaker.note_success()
                return standings
        return await self._ask_store(self._memory, tenant, costs)

    async def _ask_store(self, store: BaseStore, tenant: str, costs: Mapping[Quota, int]) -> tuple[Standing, ...]:
        standings = []
        for quota, cost in costs.items():
            throttle, key = self._throttle(store, quota), f"{quota.name}:{tenant}"
            state = (await throttle.limit(key, cost)).state if cost else await throttle.peek(key)
            standings.append(Standing(quota, state.remaining, state.reset_after))
        return tuple(standings)

    def _throttle(self, store: BaseStore, quota: Quota) -> Throttled:
        found = self._throttles.get((store, quota))
        if found is None:
            rate = per_duration(timedelta(seconds=WINDOW_S), quota.limit)
            found = Throttled(using="gcra", quota=rate, store=store, key_prefix=PREFIX)
            self._throttles[store, quota] = found
        return found


def _redis_options(timeout_s: float | None) -> dict[str, Any]:
    """Return options by which a call neither waits long nor is repeated."""
    from lego_serve.jobstore.redis_client import TIMEOUT_S, patience

    return {"CONNECTION_POOL_KWARGS": patience(timeout_s or TIMEOUT_S)}
