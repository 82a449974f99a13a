"""Holds tenants to their limits: before their bodies are read, again when the work of a request is known, and at once.

A request that is refused for another reason uses nothing of a quota: where that turns out after it was charged, whoever
answers the error has it given back.
"""

import random
from collections.abc import Callable
from contextlib import ExitStack

from fastapi import Request

from lego_serve.core.durable_jobs.store import Room
from lego_serve.core.rate_limits import Exceeded, Standing, exceeded, headers
from lego_serve.core.scheduling.drain_pace import DrainPace
from lego_serve.errors import CapacityError
from lego_serve.gateway.errors import ANSWER_HEADERS, GIVE_BACK
from lego_serve.gateway.limits.in_flight import InFlight
from lego_serve.gateway.limits.throttles import Throttles
from lego_serve.gateway.settings import LimitSettings


class RateLimitExceeded(CapacityError):
    """A tenant has used up what it may use; without ``retry_after_s`` the request alone is more than that."""

    code = "rate_limit_exceeded"

    def __init__(
        self, message: str, *, param: str | None = None, code: str | None = None, retry_after_s: float | None = 1.0
    ) -> None:
        super().__init__(message, param=param, code=code, retry_after_s=retry_after_s or 0.0)
        self.retry_after_s = retry_after_s
        self.retryable = retry_after_s is not None


class TenantLimiter:
    """The limits of all tenants in one gateway; ``now`` is the clock that jobs are timed by."""

    def __init__(
        self, settings: LimitSettings, now: Callable[[], float], chance: Callable[[], float] = random.random
    ) -> None:
        self._settings, self._now, self._chance = settings, now, chance
        self._throttles = Throttles(settings.redis_url)
        self._in_flight = InFlight(settings.redis_url, settings.owner)
        self._paces: dict[str, DrainPace] = {}

    async def check(self, request: Request, tenant: str) -> None:
        """Tell a request's answer what is left of its tenant's quotas.  Raises RateLimitExceeded where nothing is."""
        quotas = self._settings.of(tenant).quotas
        if quotas:
            standings = await self._throttles.peek(tenant, quotas)
            _tell(request, standings)
            found = exceeded(standings, {})
            if found is not None:
                raise _refusal(found)

    async def charge(self, tenant: str, work: int, request: Request) -> None:
        """Take a request and its work from the quotas.  Raises RateLimitExceeded, and takes nothing then.

        The answer to ``request`` is told what is left; where that is a refusal after all, what was taken is given back.
        """
        quotas = self._settings.of(tenant).quotas
        if not quotas:
            return
        work_of = {"requests": 1, "work": work}
        costs = {quota: work_of[quota.name] for quota in quotas}
        taken = await self._throttles.take(tenant, costs)
        _tell(request, taken.standings)
        found = exceeded(taken.standings, work_of) if taken.is_limited else None
        if found is not None:
            raise _refusal(found)

        async def give_back() -> None:
            _tell(request, await self._throttles.give_back(tenant, costs, taken))

        request.scope["state"][GIVE_BACK] = give_back

    async def hold(self, tenant: str, scope: ExitStack) -> None:
        """Count a request as in flight until ``scope`` ends.

        Raises RateLimitExceeded where its tenant has as many as it may.
        """
        limit = self._settings.of(tenant).in_flight
        if limit is None:
            return
        pace = self._paces.setdefault(tenant, DrainPace())
        if not await self._in_flight.enter(tenant, limit):
            message = f"You have {limit} requests in flight, as many as you may; wait for one to end."
            raise RateLimitExceeded(message, retry_after_s=pace.retry_after_s(self._now(), self._chance()) / limit)
        pace.begin(1, self._now())

        def leave() -> None:
            self._in_flight.leave(tenant)
            pace.end(1, self._now())

        scope.callback(leave)

    async def close(self) -> None:
        """Close the connections."""
        await self._in_flight.close()

    def room(self, tenant: str, usual: Room) -> Room:
        """Return what durable jobs a tenant may have; as ``usual`` says where nothing is said of it."""
        limits = self._settings.of(tenant)
        return Room(
            usual.open_jobs if limits.queued is None else limits.queued,
            usual.stored_bytes if limits.stored_bytes is None else limits.stored_bytes,
        )


def _tell(request: Request, standings: tuple[Standing, ...]) -> None:
    told = [(name.encode(), value.encode()) for name, value in headers(standings).items()]
    request.scope["state"][ANSWER_HEADERS] = told


def _refusal(found: Exceeded) -> RateLimitExceeded:
    quota = found.quota
    what = quota.unit or quota.name
    if found.cost > quota.limit:
        return RateLimitExceeded(
            f"This request takes {found.cost:,} {what}, and you may use {quota.limit:,} a minute: ask for fewer or "
            "smaller images, or for fewer steps.",
            retry_after_s=None,
        )
    return RateLimitExceeded(
        f"You may use {quota.limit:,} {what} a minute; try again in {found.wait_s:.1f} s.", retry_after_s=found.wait_s
    )
