"""Keeps the gateway processes alive: starts them on one shared port and replaces those that end."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence

from lego_serve.errors import LegoError

RESTART_PAUSE_S = 0.5
STOP_MARGIN_S = 5.0  # what a gateway needs to stop beyond the time that its requests have


class Supervisor:
    """The gateway processes of one server; ``drain_timeout_s`` is the time that their requests have at a stop."""

    def __init__(
        self, command: Sequence[str], count: int, on_end: Callable[[int], None], drain_timeout_s: float = 20.0
    ) -> None:
        self._command, self._count, self._on_end = list(command), count, on_end
        self._stop_timeout_s = drain_timeout_s + STOP_MARGIN_S
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def pids(self) -> list[int]:
        """The process ids of the current gateways."""
        return [process.pid for process in self._processes]

    def start(self) -> None:
        """Start all gateways."""
        self._processes = [self._spawn() for _ in range(self._count)]

    def check(self) -> None:
        """Raise LegoError if a gateway has ended: before one has served, a replacement would end as well."""
        for process in self._processes:
            if (status := process.poll()) is not None:
                ending = f"a gateway process {_ending(status)} before it was ready"
                raise LegoError(f"{ending}; what it said, if anything, stands above", code="gateway_failed")

    def watch(self, is_over: Callable[[], bool]) -> None:
        """Replace gateways that end, until ``is_over``."""
        while not is_over():
            time.sleep(RESTART_PAUSE_S)
            for index, process in enumerate(self._processes):
                if process.poll() is not None and not is_over():
                    self._on_end(process.pid)
                    self._processes[index] = self._spawn()

    def shut_down(self) -> None:
        """Let all gateways finish their requests, then kill those that take too long."""
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        deadline_s = time.monotonic() + self._stop_timeout_s
        for process in self._processes:
            try:
                process.wait(max(0.1, deadline_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _spawn(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._command, env=dict(os.environ), start_new_session=True)


def _ending(status: int) -> str:
    """Return how a process ended, by the status of ``Popen``."""
    if status >= 0:
        return f"ended with exit status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:  # a real-time signal
        name = str(-status)
    return f"was ended by signal {name}"
