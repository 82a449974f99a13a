"""Child processes under measurement; each ends together with everything it started."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import httpx2

STOP_S = 30.0
POLL_S = 0.2


class ChildError(Exception):
    """A child process ended early or never became ready; the message ends with its last lines."""


def free_port() -> int:
    """Return a TCP port of the loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def descendants(pid: int) -> list[int]:
    """Return the live process ``pid`` and all that descend from it, parents first."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it ended while we looked
                continue
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    tree = [pid]
    for parent in tree:  # grows while it is walked
        tree.extend(children.get(parent, ()))
    return tree


def last_lines(log: Path, count: int = 20) -> str:
    """Return the end of a log file."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-count:])


class Child:
    """A command that runs while the ``with`` block does; its output goes to a file.

    The end of the block sends it Ctrl-C, and kills what is left of its process tree after ``STOP_S``.
    """

    def __init__(self, command: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> None:
        self._command = list(command)
        self._log = log
        self._env = dict(os.environ if env is None else env)

    def __enter__(self) -> "Child":
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as sink:
            self._process = subprocess.Popen(
                self._command, env=self._env, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, start_new_session=True
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tree = descendants(self._process.pid)
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        deadline = time.monotonic() + STOP_S / 3
        while (survivors := [pid for pid in tree if _is_alive(pid)]) and time.monotonic() < deadline:
            time.sleep(POLL_S)
        for pid in survivors:
            os.kill(pid, signal.SIGKILL)

    def memory_bytes(self) -> int:
        """Return the bytes of main memory that the process and all it has started take, shared pages in parts."""
        return sum(_proportional_bytes(pid) for pid in descendants(self._process.pid))

    def wait_until_ready(self, url: str, timeout_s: float) -> float:
        """Poll ``url`` until it answers 200 and return the seconds that took.  Raises ChildError if it does not."""
        start = time.monotonic()
        while time.monotonic() - start < timeout_s:
            if self._process.poll() is not None:
                raise ChildError(f"{self._command[0]} ended with {self._process.returncode}:\n{last_lines(self._log)}")
            try:
                if httpx2.get(url, timeout=2.0).status_code == httpx2.codes.OK:
                    return time.monotonic() - start
            except httpx2.HTTPError:
                pass  # nobody listens yet
            time.sleep(POLL_S)
        raise ChildError(f"{url} was not ready after {timeout_s:.0f} s:\n{last_lines(self._log)}")


def _proportional_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has ended
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
