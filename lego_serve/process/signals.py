"""How a server is told to stop: a signal sets a flag, and whoever works looks at it between two things.

Nothing is interrupted in the middle, so whatever has been started is known and can be taken down.
"""

import signal
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

REINSTALL_S = 0.05
Result = TypeVar("Result")


class Stopped(SystemExit):
    """The server was told to stop before it served; the exit status is the shell's for that signal."""


class StopSignal:
    """Whether SIGINT or SIGTERM has come."""

    def __init__(self) -> None:
        self._number: int | None = None

    def install(self) -> None:
        """Take both signals from now on; to be called on the main thread."""
        signal.signal(signal.SIGINT, self._note)
        signal.signal(signal.SIGTERM, self._note)

    @property
    def is_asked(self) -> bool:
        """Whether a signal has come."""
        return self._number is not None

    def check(self) -> None:
        """Raise Stopped when a signal has come."""
        if self._number is not None:
            raise Stopped(128 + self._number)

    def _note(self, number: int, frame: object) -> None:
        self._number = self._number or number


class _Beside(threading.Thread, Generic[Result]):
    def __init__(self, work: Callable[[], Result]) -> None:
        super().__init__(name="server")
        self._work = work
        self.result: Result | None = None
        self.error: BaseException | None = None

    def run(self) -> None:
        """Do the work and keep what came of it."""
        try:
            self.result = self._work()
        except BaseException as error:  # noqa: BLE001  (raised again on the thread that waits)
            self.error = error


def run_off_main_thread(work: Callable[[], Result], stopping: StopSignal) -> Result:
    """Do something on a thread of its own while this one, the main one, takes signals.

    Ray started on the main thread puts a Python handler in place of ours, and what it starts dies
    with the thread that started it; so one thread has all of a server's life.
    """
    thread = _Beside(work)
    thread.start()
    while thread.is_alive():
        stopping.install()  # again and again: Ray's C++ part puts a handler of its own in place, one that aborts
        thread.join(REINSTALL_S)
    if thread.error is not None:
        raise thread.error
    return thread.result  # type: ignore[return-value]
