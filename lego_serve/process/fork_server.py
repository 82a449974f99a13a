"""Starts Python processes from one that has imported what they need already.

``serve LISTENER MODULE...`` imports the modules once and forks a process for every connection to a listening socket
that it inherits; the forks share its memory until they write to it. ``run SOCKET SCRIPT ARGUMENT...`` stands in for
``python SCRIPT ARGUMENT...``: it hands its arguments, environment, folder and standard streams to a fork and lives
exactly as long as that fork.

This file imports nothing but the standard library: ``run`` is started for every process and must be quick.
"""

import array
import fcntl
import gc
import json
import os
import runpy
import select
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

STREAMS = (0, 1, 2)
SIZE_BYTES = 4  # of the length in front of a message
PID_BYTES = 4
STOP_TIMEOUT_S = 5.0
HANDED_ON = (signal.SIGTERM, signal.SIGINT)  # by a launcher to its fork
LOOK_EVERY_S = 5.0  # at whether forks are stopped
MOST_LOOKS_STOPPED = 6  # half a minute, as long as Serve waits for a replica that does not answer


class ForkServer:
    """A process that forks others; it ends when told to, and with the process that started it."""

    def __init__(self, path: Path, modules: Sequence[str]) -> None:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen(128)  # who connects before the modules are there waits
            descriptor = listener.fileno()
            command = [sys.executable, "-m", __name__, "serve", str(descriptor), *modules]
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, start_new_session=True, pass_fds=[descriptor]
            )
        # -I and -S: neither the environment nor installed packages change what this file does.
        self.launcher = shlex.join([sys.executable, "-I", "-S", __file__, "run", str(path)])  # in place of `python`

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def stop(self) -> None:
        """Let it end; forks go on."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:  # it imports still
            self._process.kill()
            self._process.wait()


def serve(listener: socket.socket, modules: Sequence[str]) -> None:
    """Import modules, then fork for every connection; returns in each fork, with a script's arguments in place."""
    gc.disable()  # nothing that is imported is garbage; looking for some takes a fifth of the time
    for module in modules:
        import_module(module)
    gc.collect()
    gc.enable()
    gc.freeze()  # a collection in a fork leaves these objects alone, and their pages shared
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps forks
    forks = StoppedForks()
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [], forks.wait_s(time.monotonic()))
        if sys.stdin in ready:  # closed: who started this process has ended
            raise SystemExit
        for pid in forks.overdue(time.monotonic()):
            with suppress(ProcessLookupError):  # somebody else ended it meanwhile
                os.kill(pid, signal.SIGKILL)
        if listener not in ready:
            continue
        connection, _ = listener.accept()
        fork = os.fork()
        if fork == 0:
            os.setpgid(0, 0)  # its own: Ray ends the process group of a worker that died
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _take_over(connection)
            return
        forks.add(fork)
        connection.close()


def _state_of_child(pid: int) -> str | None:
    """The letter of a child's state in /proc; None for what is no child of this process, or no more."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    state, parent, *_ = stat.rpartition(")")[2].split()
    return state if int(parent) == os.getpid() else None


class StoppedForks:
    """The forks of this process, and at how many looks in a row each was stopped by a signal.

    A replica that stops while calls run on it is left by Serve, but Ray, which cannot reach it any more, takes it for
    ended and sends no SIGKILL: its memory would be held for as long as the server runs. Looks are counted, not
    seconds, so that a whole server that is stopped and goes on loses nothing. One that a debugger holds is not stopped.
    """

    def __init__(self, state_of: Callable[[int], str | None] = _state_of_child) -> None:
        self._state_of = state_of
        self._looks: dict[int, int] = {}
        self._next_look = 0.0

    def add(self, pid: int) -> None:
        """Look at a further fork from now on."""
        self._looks[pid] = 0

    def wait_s(self, now: float) -> float | None:
        """Seconds until the next look; None while there is nothing to look at."""
        return max(0.0, self._next_look - now) if self._looks else None

    def overdue(self, now: float) -> list[int]:
        """The forks to end, if it is time to look: they are forgotten, as are those that have ended."""
        if now < self._next_look:
            return []
        self._next_look = now + LOOK_EVERY_S
        states = {pid: self._state_of(pid) for pid in self._looks}
        looks = {pid: self._looks[pid] + 1 if state == "T" else 0 for pid, state in states.items() if state}
        overdue = [pid for pid, count in looks.items() if count > MOST_LOOKS_STOPPED]
        self._looks = {pid: count for pid, count in looks.items() if pid not in overdue}
        return overdue


def run(path: str, arguments: Sequence[str]) -> None:
    """Run a script in a fork and return when that has ended; replaces this process by it where no fork is to be had."""
    signal.pthread_sigmask(signal.SIG_BLOCK, HANDED_ON)  # until there is a fork
    try:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(path)
        process = {"arguments": arguments, "environment": dict(os.environ), "folder": os.getcwd()}
        message = json.dumps(process).encode()
        streams = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", STREAMS))]
        connection.sendmsg([len(message).to_bytes(SIZE_BYTES, "big")], streams)
        connection.sendall(message)
        fork = int.from_bytes(connection.recv(PID_BYTES), "big")
    except OSError:
        fork = 0
    if not fork:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDED_ON)
        os.execv(sys.executable, [sys.executable, *arguments])
    for number in HANDED_ON:
        signal.signal(number, lambda number, frame: os.kill(fork, number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDED_ON)
    connection.recv(1)  # nothing comes: it ends when the fork does


def _take_over(connection: socket.socket) -> None:
    """Make this fork the process that a connection describes, for as long as its other end is there."""
    streams = array.array("i")
    head, ancillary, _, _ = connection.recvmsg(SIZE_BYTES, socket.CMSG_SPACE(len(STREAMS) * streams.itemsize))
    streams.frombytes(ancillary[0][2])
    message = b""
    while len(message) < int.from_bytes(head, "big"):
        message += connection.recv(2**16)
    process: dict[str, Any] = json.loads(message)
    for number, stream in zip(STREAMS, streams, strict=True):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(process["folder"])
    os.environ.clear()
    os.environ.update(process["environment"])
    sys.argv = process["arguments"]
    sys.path[0] = os.path.dirname(sys.argv[0])
    connection.sendall(os.getpid().to_bytes(PID_BYTES, "big"))
    _let_the_kernel_end_with(connection)
    threading.Thread(target=_end_with, args=(connection,), daemon=True).start()


def _let_the_kernel_end_with(connection: socket.socket) -> None:
    """Have SIGKILL sent when the other end of a connection closes: a process that is stopped runs no thread.

    In place of SIGIO, which tells of input; no other event comes here, for the other end sends nothing more.
    """
    fcntl.fcntl(connection, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(connection, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(connection, fcntl.F_SETFL, fcntl.fcntl(connection, fcntl.F_GETFL) | os.O_ASYNC)


def _end_with(connection: socket.socket) -> None:
    """End this process when the other end of a connection closes, as it would had it been that process itself.

    Where that has closed before the kernel was asked to. It selects, for no signal is sent to whoever reads.
    """
    select.select([connection], [], [])
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    role, place, *rest = sys.argv[1:]
    if role == "run":
        run(place, rest)
    else:
        serve(socket.socket(fileno=int(place)), rest)
        runpy.run_path(sys.argv[0], run_name="__main__")
