"""Whether the gateway is stopping, and whether the time of its last requests has run out."""

import asyncio


class Draining:
    """The stop of a gateway: first new work is refused, then what is left is ended."""

    def __init__(self) -> None:
        self._begun = asyncio.Event()
        self._expired = asyncio.Event()

    @property
    def has_begun(self) -> bool:
        """Whether new work is refused."""
        return self._begun.is_set()

    @property
    def has_expired(self) -> bool:
        """Whether requests that are still running are to end."""
        return self._expired.is_set()

    def begin(self) -> None:
        """Refuse new work from now on."""
        self._begun.set()

    def expire(self) -> None:
        """End what is still running."""
        self._begun.set()
        self._expired.set()

    async def begun(self) -> None:
        """Wait until new work is refused."""
        await self._begun.wait()

    async def expired(self) -> None:
        """Wait until requests are to end."""
        await self._expired.wait()
