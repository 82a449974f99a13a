"""Bounds the bytes of bodies that one gateway holds at once, and how many large ones are parsed at once."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import NoReturn

from fastapi import Request
from starlette.types import Message

from lego_serve.errors import CapacityError

BODIES = 4  # of the largest size
PARSERS = 2
SHARE = 3  # times what is free is what one owner may hold: three quarters alone, and there is always room for another
MAX_WAIT_S = 60.0


@dataclass(slots=True, eq=False)
class _Held:
    """What is held of one body, and since when."""

    owner: str
    since: float
    count: int = 0


class BodyBytes:
    """Counts the bytes of the bodies that are being received and parsed, by owner: a tenant or a client address."""

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit, self._clock = limit, clock
        self._bodies: set[_Held] = set()
        self._held: Counter[str] = Counter()  # by owner
        self._total = 0
        self.parsing = asyncio.Semaphore(PARSERS)

    def begin(self, owner: str) -> _Held:
        """Return a body of which nothing has come in yet."""
        body = _Held(owner, self._clock())
        self._bodies.add(body)
        return body

    def take(self, body: _Held, count: int) -> None:
        """Count bytes of a body that have come in.  Raises CapacityError where too many are held already."""
        free = self._limit - self._total - count
        if count and free < 0:
            self._refuse(self._bodies, f"The bodies of other requests fill the {self._limit} bytes there are for them")
        held = self._held[body.owner] + count
        if count and held > SHARE * free:
            what = f"Your requests' bodies would hold {held} of the {self._limit} bytes there are for all"
            own = [other for other in self._bodies if other.owner == body.owner]
            self._refuse(own, f"{what}, more than {SHARE} times what is left")
        self._add(body, count)

    def end(self, body: _Held) -> None:
        """Forget a body that is held no longer."""
        self._add(body, -body.count)
        self._bodies.discard(body)

    def _add(self, body: _Held, count: int) -> None:
        body.count += count
        self._total += count
        self._held[body.owner] += count
        if not self._held[body.owner]:
            del self._held[body.owner]

    def _refuse(self, bodies: Iterable[_Held], what: str) -> NoReturn:
        """Raise CapacityError with the wait until there may be room.

        What has been held for long is not about to end: bodies are expected to last as long again as they have, which
        for the mean of their bytes is the time to come.
        """
        now = self._clock()
        held = [(body.count, now - body.since) for body in bodies if body.count]
        mean_s = sum(count * age for count, age in held) / max(1, sum(count for count, _ in held))
        seconds = min(max(1.0, mean_s), MAX_WAIT_S)
        message = f"{what}; try again in {seconds:.0f} s."
        raise CapacityError(message, code="bodies_over_capacity", retry_after_s=seconds)


@asynccontextmanager
async def counted(request: Request, buffer: BodyBytes) -> AsyncIterator[Request]:
    """Yield the request with its body counted as it is read, as long as the block lasts."""
    body = buffer.begin(owner_of(request))

    async def receive() -> Message:
        message = await request.receive()
        buffer.take(body, len(message.get("body", b"")))
        return message

    try:
        yield Request(request.scope, receive)
    finally:
        buffer.end(body)


async def receive_body(request: Request) -> bytearray:
    """Return the body of a request."""
    raw = bytearray()
    async for chunk in request.stream():
        raw += chunk
    return raw


def owner_of(request: Request) -> str:
    """Return whose bodies a request's count among: the tenant's whose key it has, or else the client address's."""
    tenant: str | None = getattr(request.state, "tenant", None)
    if tenant is not None:
        return f"tenant {tenant}"
    return f"address {request.client.host if request.client else None}"
