"""Stops a server by a flag: a signal sets it, and the server's work checks it between two steps.

Nothing is interrupted in the middle, so everything that was started is known and can be shut down.
"""

import signal
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

REINSTALL_S = 0.05  # between two installations of the handlers
Result = TypeVar("Result")


class Stopped(SystemExit):
    """A signal stopped the server before it served; the exit status is the shell's for that signal."""


class StopSignal:
    """A flag that SIGINT and SIGTERM set."""

    def __init__(self) -> None:
        self._number: int | None = None

    def install(self) -> None:
        """Handle both signals from now on; call it on the main thread."""
        signal.signal(signal.SIGINT, self._note)
        signal.signal(signal.SIGTERM, self._note)

    @property
    def is_asked(self) -> bool:
        """Whether a signal has arrived."""
        return self._number is not None

    def check(self) -> None:
        """Raise Stopped if a signal has arrived."""
        if self._number is not None:
            raise Stopped(128 + self._number)

    def _note(self, number: int, frame: object) -> None:
        self._number = self._number or number


class _WorkThread(threading.Thread, Generic[Result]):
    def __init__(self, work: Callable[[], Result]) -> None:
        super().__init__(name="server")
        self._work = work
        self.result: Result | None = None
        self.error: BaseException | None = None

    def run(self) -> None:
        """Do the work and store its result or error."""
        try:
            self.result = self._work()
        except BaseException as error:  # noqa: BLE001  (raised again on the thread that waits)
            self.error = error


def run_off_main_thread(work: Callable[[], Result], stopping: StopSignal) -> Result:
    """Run ``work`` on a thread of its own, while the calling main thread handles signals; return or raise its outcome.

    Ray replaces our handlers if it is started on the main thread, and the processes that it starts die with the thread
    that started it; so one other thread runs the server from start to end.
    """
    thread = _WorkThread(work)
    thread.start()
    while thread.is_alive():
        stopping.install()  # again and again: Ray's C++ part installs a handler that aborts
        thread.join(REINSTALL_S)
    if thread.error is not None:
        raise thread.error
    return thread.result  # type: ignore[return-value]
