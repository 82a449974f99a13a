"""Requests that wait for the answer to another one of their key: how many may, and until when."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

from lego_serve.errors import CapacityError
from lego_serve.gateway.errors import ServerStopping
from lego_serve.gateway.transport.draining import Draining

MAX_OF_KEY = 8
MAX_OF_TENANT = 64
RETRY_S = 5.0

T = TypeVar("T")


class Repeats:
    """Counts those that wait in one gateway: each holds a connection, and nothing else limits them."""

    def __init__(self) -> None:
        self._of_key: Counter[str] = Counter()
        self._of_tenant: Counter[str] = Counter()

    def has(self, name: str) -> bool:
        """Whether any waits for what a key stands for."""
        return name in self._of_key

    @contextmanager
    def waiting(self, tenant: str, name: str) -> Iterator[None]:
        """Count one more as long as the block lasts.  Raises CapacityError where too many wait."""
        for counter, key, most, whose in (
            (self._of_key, name, MAX_OF_KEY, "with this Idempotency-Key"),
            (self._of_tenant, tenant, MAX_OF_TENANT, "with an Idempotency-Key of yours"),
        ):
            if counter[key] >= most:
                message = (
                    f"{counter[key]} requests {whose} wait already for the answer to the one that came first, and no "
                    f"more than {most} may; try again in {RETRY_S:.0f} s."
                )
                raise CapacityError(message, retry_after_s=RETRY_S)
        self._change(tenant, name, 1)
        try:
            yield
        finally:
            self._change(tenant, name, -1)

    def _change(self, tenant: str, name: str, by: int) -> None:
        for counter, key in ((self._of_key, name), (self._of_tenant, tenant)):
            counter[key] += by
            if not counter[key]:
                del counter[key]


async def awaited(request: Request, draining: Draining, end: "asyncio.Future[T]") -> T:
    """Return what a future comes to, which others may wait for too.

    Raises ClientDisconnect where the client leaves before, ServerStopping where the server begins to stop.
    """
    leaving = asyncio.ensure_future(_disconnected(request))
    stopping = asyncio.ensure_future(draining.begun())
    try:
        await asyncio.wait((end, leaving, stopping), return_when=asyncio.FIRST_COMPLETED)
        if end.done():
            return end.result()
        raise ClientDisconnect if leaving.done() else ServerStopping
    finally:
        leaving.cancel()
        stopping.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
