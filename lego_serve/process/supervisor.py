"""Keeps the gateway processes alive: starts them on one shared port and replaces those that end."""

import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lego_serve.errors import LegoError

log = logging.getLogger("lego_serve")
RESTART_PAUSE_S = 0.5
REFUSE = signal.SIGUSR1  # to a gateway whose nodes are gone
STOP_MARGIN_S = 5.0  # what a gateway needs to stop beyond the time that its requests have
log = logging.getLogger("lego_serve")


@dataclass(frozen=True, slots=True)
class _Leaving:
    """A gateway that was told to end, and when it is killed."""

    process: subprocess.Popen[bytes]
    until_s: float


class Supervisor:
    """The gateway processes of one server; ``drain_timeout_s`` is the time that their requests have at a stop.

    ``command`` answers what starts a gateway now; ``tick`` is called all the while that they are watched, and ``hung``
    answers then which of the processes with these ids are there and do nothing.
    """

    def __init__(
        self,
        command: Callable[[], Sequence[str]],
        count: int,
        on_end: Callable[[int], None],
        drain_timeout_s: float = 20.0,
        tick: Callable[[], None] = lambda: None,
        hung: Callable[[Sequence[int]], Sequence[int]] = lambda pids: (),
    ) -> None:
        self._hung = hung
        self._command, self._count, self._on_end, self._tick = command, count, on_end, tick
        self._stop_timeout_s = drain_timeout_s + STOP_MARGIN_S
        self._processes: list[subprocess.Popen[bytes]] = []
        self._leaving: list[_Leaving] = []

    @property
    def pids(self) -> list[int]:
        """The process ids of the current gateways."""
        return [process.pid for process in self._processes]

    @property
    def leaving(self) -> list[int]:
        """The process ids of gateways that were replaced and have not ended."""
        return [each.process.pid for each in self._leaving]

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
        """Replace gateways that end, and end those that hang, until ``is_over``."""
        while not is_over():
            time.sleep(RESTART_PAUSE_S)
            self._tick()
            self.see_off()
            self._end_hung()
            for index, process in enumerate(self._processes):
                if process.poll() is not None and not is_over():
                    self._clear_away(process.pid)
                    self._processes[index] = self._spawn()

    def refuse_all(self) -> None:
        """Have all gateways refuse what comes, and end what they have in hand, until they are replaced."""
        for process in self._processes:
            process.send_signal(REFUSE)

    def replace_all(self, is_listening: Callable[[int], bool], patience_s: float = 20.0) -> None:
        """Start other gateways; as soon as these listen, by their process ids, have the old ones end."""
        old, self._processes = self._processes, [self._spawn() for _ in self._processes]
        limit = time.monotonic() + patience_s
        while time.monotonic() < limit and not all(
            p.poll() is not None or is_listening(p.pid) for p in self._processes
        ):
            time.sleep(0.05)
        for process in old:
            process.send_signal(signal.SIGTERM)
            self._leaving.append(_Leaving(process, time.monotonic() + self._stop_timeout_s))

    def see_off(self) -> None:
        """Take note of the ends of those that were replaced; kill those that take too long."""
        for each in list(self._leaving):
            if each.process.poll() is None and time.monotonic() < each.until_s:
                continue
            each.process.kill()
            each.process.wait()
            self._leaving.remove(each)
            self._clear_away(each.process.pid)

    def shut_down(self) -> None:
        """Let all gateways finish their requests, then kill those that take too long."""
        ending = [*self._processes, *(each.process for each in self._leaving)]
        for process in ending:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        deadline_s = time.monotonic() + self._stop_timeout_s
        for process in ending:
            try:
                process.wait(max(0.1, deadline_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _end_hung(self) -> None:
        """Kill those that do nothing any more, since the port goes on giving them connections."""
        hung = self._hung(self.pids)
        for process in self._processes:
            if process.pid in hung and process.poll() is None:
                log.error("gateway %d listens and does not answer; it is killed and replaced", process.pid)
                process.kill()

    def _clear_away(self, pid: int) -> None:
        """Clear away what a gateway has left; where that fails the other gateways serve on."""
        try:
            self._on_end(pid)
        except Exception:
            log.exception("what the gateway of process %d has left could not be cleared away", pid)

    def _spawn(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._command(), env=dict(os.environ), start_new_session=True)


def _ending(status: int) -> str:
    """Return how a process ended, by the status of ``Popen``."""
    if status >= 0:
        return f"ended with exit status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:  # a real-time signal
        name = str(-status)
    return f"was ended by signal {name}"
