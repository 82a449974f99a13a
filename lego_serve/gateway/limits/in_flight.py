"""Counts the requests of each tenant that are in flight: here, and with Redis in all gateways together.

Every gateway tells how many it has itself, whenever that changes, so that nothing adds up wrongly: what was not told
while Redis was away is told with the next change.  Those of a gateway whose lease has ended count no more.
"""

import asyncio
from collections import Counter, defaultdict

from lego_serve.errors import StoreUnavailable
from lego_serve.jobstore import redis_scripts as lua
from lego_serve.jobstore.redis_client import TIMEOUT_S, ScriptRunner, connect
from lego_serve.jobstore.redis_store import PREFIX


class InFlight:
    """The counts of all tenants; ``owner`` is this gateway, under the name that it has its lease for jobs as."""

    def __init__(self, redis_url: str | None = None, owner: str = "", timeout_s: float = TIMEOUT_S) -> None:
        self._scripts = None if redis_url is None else ScriptRunner(connect(redis_url, timeout_s), PREFIX)
        self._owner = owner
        self._here: Counter[str] = Counter()
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._telling: set[asyncio.Task[None]] = set()

    async def enter(self, tenant: str, limit: int) -> bool:
        """Count one request more, unless there are as many as there may be; return whether it counts."""
        async with self._turns[tenant]:
            wanted = self._here[tenant] + 1
            if wanted > limit or not await self._is_within(tenant, wanted, limit):
                return False
            self._here[tenant] += 1
            return True

    def leave(self, tenant: str) -> None:
        """Count one less; the others are told soon."""
        self._here[tenant] -= 1
        if self._scripts is not None:
            task = asyncio.ensure_future(self._tell(tenant))
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)

    async def close(self) -> None:
        """Tell what is left to tell, and close the connections."""
        await asyncio.gather(*self._telling)
        if self._scripts is not None:
            await self._scripts.client.aclose()

    async def _is_within(self, tenant: str, here: int, limit: int) -> bool:
        """Tell how many there are here and return whether all are few enough; while Redis is away these alone count."""
        if self._scripts is None:
            return True
        try:
            return bool(await self._scripts.run(lua.TELL_IN_FLIGHT, tenant, self._owner, here, limit))
        except StoreUnavailable:
            return True

    async def _tell(self, tenant: str) -> None:
        async with self._turns[tenant]:
            here = self._here[tenant]
            await self._is_within(tenant, here, here)
