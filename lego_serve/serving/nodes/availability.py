"""Whether a node elsewhere can be reached: watched while it is away, and told to who has lanes that wait for it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

TICK_S = 1.0


class ControlNetListener(Protocol):
    """Who has lanes that may wait for a ControlNet."""

    def controlnet_back(self, name: str) -> None:
        """It answers again: its lanes go on."""
        ...

    def controlnet_unavailable(self, name: str, longest_s: float) -> None:
        """It is still away: lanes that have waited longer than this fail."""
        ...


class AvailabilityWatch:
    """Waits for one node to answer again; used on one event loop, and ``is_away`` from any thread."""

    def __init__(
        self, name: str, answers: Callable[[], Awaitable[None]], longest_s: float, presence: ControlNetListener | None
    ) -> None:
        self._name, self._answers, self._longest_s, self._presence = name, answers, longest_s, presence
        self._task: asyncio.Task[None] | None = None
        self.is_away = False

    def begin(self) -> None:
        """It is away, from now on until it answers."""
        self.is_away = True
        if self._task is None:
            self._task = asyncio.ensure_future(self._until_back())

    async def _until_back(self) -> None:
        answered = asyncio.ensure_future(self._answers())
        while not answered.done():
            await asyncio.wait({answered}, timeout=TICK_S)
            if not answered.done() and self._presence is not None:
                self._presence.controlnet_unavailable(self._name, self._longest_s)
        self._task, self.is_away = None, False
        if self._presence is not None:
            self._presence.controlnet_back(self._name)
