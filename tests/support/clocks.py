"""Time for tests that would otherwise wait."""

import asyncio
import functools
import math
import selectors
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")


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


class HandClock:
    """A clock that a test turns on by hand."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        """Return the seconds it shows."""
        return self.now_s
