"""One look for all who want to know the same at the same time: a question about the store costs it once."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

Seen = TypeVar("Seen")


class SharedLooks(Generic[Seen]):
    """Looks by key; ``look`` answers one, and may raise, which all who wait for it hear.

    A look that is under way may have missed what its caller knows of: it is shared by those only who come before it
    begins.  What was seen answers for ``fresh_s`` more, without another look.
    """

    def __init__(self, look: Callable[[str], Awaitable[Seen]], fresh_s: float = 0.0) -> None:
        self._look, self._fresh_s = look, fresh_s
        self._under_way: dict[str, asyncio.Task[Seen]] = {}
        self._next: dict[str, asyncio.Task[Seen]] = {}
        self._seen: dict[str, tuple[float, Seen]] = {}

    async def ask(self, key: str) -> Seen:
        """Return what a look at ``key`` sees that begins from now on, or one that ended a moment ago."""
        loop = asyncio.get_running_loop()
        self._seen = {name: each for name, each in self._seen.items() if loop.time() - each[0] < self._fresh_s}
        if key in self._seen:
            return self._seen[key][1]
        task = self._next.get(key)
        if task is None:
            task = self._next[key] = asyncio.ensure_future(self._after(key, self._under_way.get(key)))
            task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # nobody may be left to hear
        return await asyncio.shield(task)  # which others wait for too

    async def _after(self, key: str, before: "asyncio.Task[Seen] | None") -> Seen:
        """Look once the look before has ended, however."""
        if before is not None:
            await asyncio.wait({before})
        own = self._next.pop(key)
        self._under_way[key] = own
        try:
            seen = await self._look(key)
        finally:
            del self._under_way[key]
        if self._fresh_s > 0.0:
            self._seen[key] = asyncio.get_running_loop().time(), seen
        return seen
