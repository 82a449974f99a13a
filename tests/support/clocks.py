"""Time for tests that would otherwise wait."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Selector(selectors.DefaultSelector):
    """Moves its clock on where another would sleep until a timer is due."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready now; `timeout` has passed when it returns."""
        self.now += timeout or 0.0
        return super().select(None if timeout is None else 0)


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock starts at 0 and jumps to the next timer as soon as there is nothing else to do.

    For code that waits with `asyncio.sleep` and reads the loop's own clock, and for nothing that waits for threads.
    """

    def __init__(self) -> None:
        self._jumping = _Selector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Seconds since the loop was made."""
        return self._jumping.now


def run_jumping(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end what waits by asyncio's clock, in no time."""
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(work)


class HandClock:
    """A clock that a test turns on by hand."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        """Return the seconds it shows."""
        return self.now_s
