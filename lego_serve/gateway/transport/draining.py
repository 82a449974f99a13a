"""Whether the gateway is stopping, and whether the time of its last requests has run out."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class Draining:
    """The stop of a gateway: first new work is refused, then what is left is ended."""

    def __init__(self) -> None:
        self._begun = asyncio.Event()
        self._has_expired = False
        self._waits: set[asyncio.Future[None]] = set()

    @property
    def has_begun(self) -> bool:
        """Whether new work is refused."""
        return self._begun.is_set()

    @property
    def has_expired(self) -> bool:
        """Whether requests that are still running are to end."""
        return self._has_expired

    def begin(self) -> None:
        """Refuse new work from now on."""
        self._begun.set()

    def expire(self) -> None:
        """End what is still running."""
        self._begun.set()
        self._has_expired = True
        for wait in self._waits:
            wait.cancel()

    async def begun(self) -> None:
        """Wait until new work is refused."""
        await self._begun.wait()

    @contextmanager
    def cancelling(self, wait: "asyncio.Future[None]") -> Iterator[None]:
        """Cancel what a request waits for when requests are to end, as long as the block lasts."""
        if self._has_expired:
            wait.cancel()
        self._waits.add(wait)
        try:
            yield
        finally:
            self._waits.discard(wait)
