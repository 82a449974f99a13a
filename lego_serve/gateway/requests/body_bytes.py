"""Bounds the bytes of bodies that one gateway holds at once, and how many large ones are parsed at once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Request
from starlette.types import Message

from lego_serve.errors import CapacityError

BODIES = 4  # of the largest size
PARSERS = 2


class BodyBytes:
    """Counts the bytes of the bodies that are being received and parsed."""

    def __init__(self, limit: int) -> None:
        self._limit, self._held = limit, 0
        self.parsing = asyncio.Semaphore(PARSERS)

    @property
    def held(self) -> int:
        """The bytes of all bodies that have come in and are not parsed yet."""
        return self._held

    def take(self, count: int) -> None:
        """Count bytes that have come in.  Raises CapacityError where others hold too many already."""
        if self._held + count > self._limit:
            raise CapacityError(
                f"The bodies of other requests fill the {self._limit} bytes there are for them; try again.",
                code="bodies_over_capacity",
            )
        self._held += count

    def give_back(self, count: int) -> None:
        """Forget bytes that are held no longer."""
        self._held -= count


@asynccontextmanager
async def receive_body(request: Request, buffer: BodyBytes) -> AsyncIterator[bytearray]:
    """Yield the body of a request, counted as long as the block lasts.  Raises CapacityError."""
    raw = bytearray()
    taken = 0
    try:
        async for chunk in request.stream():
            buffer.take(len(chunk))
            taken += len(chunk)
            raw += chunk
        yield raw
    finally:
        buffer.give_back(taken)


@asynccontextmanager
async def counted(request: Request, buffer: BodyBytes) -> AsyncIterator[Request]:
    """Yield the request with its body counted as it is read, as long as the block lasts."""
    taken = 0

    async def receive() -> Message:
        nonlocal taken
        message = await request.receive()
        count = len(message.get("body", b""))
        buffer.take(count)
        taken += count
        return message

    try:
        yield Request(request.scope, receive)
    finally:
        buffer.give_back(taken)
