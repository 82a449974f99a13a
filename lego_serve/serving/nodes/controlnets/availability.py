"""Watches an unreachable ControlNet and notifies its listener."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

TICK_S = 1.0


class ControlNetListener(Protocol):
    """A listener for a ControlNet's availability."""

    def controlnet_back(self, name: str) -> None:
        """Resume the waiting lanes."""
        ...

    def controlnet_unavailable(self, name: str, longest_s: float) -> None:
        """Fail lanes that have waited longer than ``longest_s``."""
        ...


class AvailabilityWatch:
    """Watches one unreachable node; used on one event loop, and ``is_unavailable`` from any thread."""

    def __init__(
        self, name: str, answers: Callable[[], Awaitable[None]], longest_s: float, listener: ControlNetListener | None
    ) -> None:
        self._name, self._answers, self._longest_s, self._listener = name, answers, longest_s, listener
        self._task: asyncio.Task[None] | None = None
        self.is_unavailable = False

    def begin(self) -> None:
        """Mark the node unreachable and watch it."""
        self.is_unavailable = True
        if self._task is None:
            self._task = asyncio.ensure_future(self._until_back())

    async def _until_back(self) -> None:
        answered = asyncio.ensure_future(self._answers())
        while not answered.done():
            await asyncio.wait({answered}, timeout=TICK_S)
            if not answered.done() and self._listener is not None:
                self._listener.controlnet_unavailable(self._name, self._longest_s)
        self._task, self.is_unavailable = None, False
        if self._listener is not None:
            self._listener.controlnet_back(self._name)
