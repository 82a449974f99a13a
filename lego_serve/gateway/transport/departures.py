"""Tells whoever waits for a job that its client has left, without a task that waits for messages."""

import asyncio
from collections.abc import Callable

from starlette.types import Scope

EXTENSION = "lego_serve.departure"  # of a request's scope


class Heard(asyncio.Event):
    """An event that also calls one function whenever it is set."""

    def __init__(self) -> None:
        super().__init__()
        self.on_set: Callable[[], None] | None = None

    def set(self) -> None:
        """Set it, and call."""
        super().set()
        if self.on_set is not None:
            self.on_set()


def departure(scope: Scope) -> "asyncio.Future[None] | None":
    """Return what is done as soon as a request's client has left; None where the server cannot say.

    It is for a request whose body has been read whole.
    """
    watch: Callable[[], asyncio.Future[None]] | None = scope.get("extensions", {}).get(EXTENSION)
    return None if watch is None else watch()
