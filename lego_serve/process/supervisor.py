"""Keeps the gateway processes alive: starts them on one shared port and replaces those that end."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence

from lego_serve.errors import LegoError

RESTART_PAUSE_S = 0.5
STOP_TIMEOUT_S = 25.0


class Supervisor:
    """The gateway processes of one server."""

    def __init__(self, command: Sequence[str], count: int, ended: Callable[[int], None]) -> None:
        self._command, self._count, self._ended = list(command), count, ended
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def pids(self) -> list[int]:
        """The process ids of the gateways as they are now."""
        return [process.pid for process in self._processes]

    def start(self) -> None:
        """Start all gateways."""
        self._processes = [self._spawn() for _ in range(self._count)]

    def check(self) -> None:
        """Raise LegoError where a gateway has ended: while none has served yet another would end as well."""
        for process in self._processes:
            if (status := process.poll()) is not None:
                said = (
                    f"a gateway process {_ended(status)} before it was ready; what it said, if anything, stands above"
                )
                raise LegoError(said, code="gateway_failed")

    def watch(self, is_over: Callable[[], bool]) -> None:
        """Replace gateways that end until it is over."""
        while not is_over():
            time.sleep(RESTART_PAUSE_S)
            for index, process in enumerate(self._processes):
                if process.poll() is not None and not is_over():
                    self._ended(process.pid)
                    self._processes[index] = self._spawn()

    def shut_down(self) -> None:
        """Ask all gateways to finish what they have, then end those that do not."""
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        limit = time.monotonic() + STOP_TIMEOUT_S
        for process in self._processes:
            try:
                process.wait(max(0.1, limit - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _spawn(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._command, env=dict(os.environ), start_new_session=True)


def _ended(status: int) -> str:
    """How a process ended, by what ``Popen`` says."""
    if status >= 0:
        return f"ended with exit status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:  # a real-time one
        name = str(-status)
    return f"was ended by signal {name}"
