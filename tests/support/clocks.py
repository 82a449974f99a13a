"""Time for tests that would otherwise wait, or fail where their process is not let run."""

import asyncio
import math
import selectors
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
TICK_S = 0.01


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


class _Ticks(selectors.DefaultSelector):
    """Counts the seconds in which its thread waited or worked, and passes over those in which it was not let run.

    It waits in ticks: whatever happens to the process in one of them, that one counts as no longer than it was to be.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = time.monotonic()
        self._worked_s: float | None = None  # of the processor, by this thread, when it last stopped waiting

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready, or nothing when `timeout` has passed."""
        if self._worked_s is not None:
            self.now += max(0.0, time.thread_time() - self._worked_s)
        left_s = math.inf if timeout is None else timeout
        while True:
            tick_s = min(left_s, TICK_S)
            began = time.monotonic()
            ready = super().select(tick_s)
            waited_s = min(time.monotonic() - began, tick_s)
            self.now += waited_s
            left_s -= waited_s
            if ready or left_s <= 0.0:
                self._worked_s = time.thread_time()
                return ready


class SteadyLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock goes on only while its thread waits for it or works.

    A process that is held up for seconds, anywhere, has its timeouts and pauses in their order afterwards, and as far
    from each other as ever.  A busy machine makes nothing come too late by this clock.
    """

    def __init__(self) -> None:
        self._ticks = _Ticks()
        super().__init__(self._ticks)

    def time(self) -> float:
        """Seconds, from what the machine's clock showed when the loop was made."""
        return self._ticks.now


class HandClock:
    """A clock that a test turns on by hand."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        """Return the seconds it shows."""
        return self.now_s
