"""Time for tests that would otherwise wait, or fail where their process is not let run."""

import asyncio
import functools
import math
import selectors
import time
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")
TICK_S = 0.01


class _Selector(selectors.DefaultSelector):
    """Moves its clock on where another would sleep until a timer is due."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready now; if nothing is, `timeout` has passed when it returns."""
        ready = super().select(None if timeout is None else 0)
        if not ready:
            self.now += timeout or 0.0
        return ready


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock starts at 0 and jumps to the next timer as soon as there is nothing else to do.

    For code that waits with `asyncio.sleep` and reads the loop's own clock, and for nothing that waits for threads.
    """

    def __init__(self) -> None:
        self._jumping = _Selector()
        self._due: dict[float, float] = {}
        super().__init__(self._jumping)

    def time(self) -> float:
        """Seconds since the loop was made."""
        return self._jumping.now

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Call back in the order of the calls what is due at the same time, as on a clock that moves meanwhile."""
        self._due[when] = math.nextafter(self._due[when], math.inf) if when in self._due else when
        return super().call_at(self._due[when], callback, *args, context=context)


def run_jumping(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end what waits by asyncio's clock, in no time."""
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(work)


def in_no_time(test: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """Have a test of such code run on a ``JumpingLoop``: a machine that is held up cannot make anything late."""

    @functools.wraps(test)
    def run(*args: P.args, **more: P.kwargs) -> T:
        return run_jumping(test(*args, **more))

    return run


async def until(is_so: Callable[[], bool], within_s: float = 60.0) -> None:
    """Wait until something is so; it fails where that takes longer than any machine may be held up."""
    async with asyncio.timeout(within_s):
        while not is_so():
            await asyncio.sleep(0.005)


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
