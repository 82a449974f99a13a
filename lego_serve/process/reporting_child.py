"""A child process that tells its parent what happens to it, a JSON object a line over a pipe of its own.

The child's end is in ``Parent``; it is told to stop when its parent has ended, however that ended.
"""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Collection, Sequence
from typing import Any

from lego_serve.process.tree import children, descendants, is_alive

PR_SET_CHILD_SUBREAPER = 36  # of prctl(2)
END_S = 5.0  # that killed processes take to be gone


class ReportingChild:
    """A process started by this one, and what it has told."""

    def __init__(self, command: Sequence[str]) -> None:
        """``command`` gets two descriptors as its last words: of a pipe to tell by, and of one that ends with us."""
        told, tell = os.pipe()
        alive, hold = os.pipe()
        words = [*command, str(tell), str(alive)]
        self._process = subprocess.Popen(words, pass_fds=[tell, alive], start_new_session=True)
        os.close(tell)
        os.close(alive)
        os.set_blocking(told, False)
        self._told, self._hold, self._text = told, hold, b""

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        """How it ended, as ``Popen`` says it; None while it runs."""
        return self._process.poll()

    def told(self) -> list[dict[str, Any]]:
        """Return what it has told since the last time."""
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self._told, 65536):
                self._text += chunk
        *lines, self._text = self._text.split(b"\n")
        return [json.loads(line) for line in lines]

    def stop(self, patience_s: float) -> None:
        """Have it stop what it has started; kill it if that takes longer."""
        if self.status is None:
            self._process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(patience_s)
        self.kill()

    def kill(self) -> None:
        """End it at once, whatever it does."""
        self._process.kill()
        self._process.wait()
        for descriptor in (self._told, self._hold):
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self._told = self._hold = -1


class Parent:
    """The process that started this one, as it sees it."""

    def __init__(self, tell: int, alive: int) -> None:
        self._tell = tell
        threading.Thread(target=self._end_with, args=(alive,), daemon=True, name="parent").start()

    def tell(self, **facts: object) -> None:
        """Tell it something, unless it is gone."""
        with contextlib.suppress(OSError):
            os.write(self._tell, json.dumps(facts).encode() + b"\n")

    def _end_with(self, alive: int) -> None:
        os.read(alive, 1)  # nothing comes: it ends when the parent does
        os.kill(os.getpid(), signal.SIGTERM)


def adopt_orphans() -> None:
    """Become the parent of whatever the children of this process leave behind, so that it can be found and ended."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_descendants(spared: Collection[int]) -> None:
    """Kill all processes below this one but for those that are spared and what is below them; gone when it returns."""
    limit = time.monotonic() + END_S
    while rest := _rest(spared):
        for pid in rest:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > limit:
            break
        time.sleep(0.02)
    reap_orphans(spared)


def reap_orphans(known: Collection[int]) -> None:
    """Take note of the ends of children that this process has not started itself."""
    for pid in children(os.getpid()):
        if pid not in known and not is_alive(pid):
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def _rest(spared: Collection[int]) -> list[int]:
    kept = {pid for each in spared for pid in (each, *descendants(each))}
    return [pid for pid in descendants(os.getpid()) if pid not in kept and is_alive(pid)]
