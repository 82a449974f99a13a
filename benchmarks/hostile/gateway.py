"""The gateway under attack: a process of a checkout, or one that somebody else has started."""

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.hostile.probe import is_alive
from benchmarks.hostile.wire import Address
from lego_serve.process.sockets import reserve

STAND_IN = Path(__file__).with_name("stand_in.py")
CONFIG = "configs/tiny.yaml"
START_S = 120.0
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process has used: processor seconds, and bytes of memory that it holds."""

    processor_s: float
    rss: int


def usage_of(pid: int | None) -> Usage | None:
    """Return what a process has used; None where it has ended, or none is known."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return Usage((int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK"), int(stat[21]) * PAGE)


class Gateway:
    """A gateway that somebody else has started; it cannot be replaced."""

    def __init__(self, url: str, pid: int | None = None) -> None:
        parts = urlsplit(url)
        self.address: Address = (parts.hostname or "127.0.0.1", parts.port or 80)
        self.pid = pid

    def replace(self) -> None:
        """Raises RuntimeError: it is not ours to end."""
        raise RuntimeError(f"the gateway at {self.address[0]}:{self.address[1]} answers no more; start it again")

    def stop(self) -> None:
        """Leave it as it is."""


class OwnGateway(Gateway):
    """A checkout's gateway process over a stand-in for what is behind it.

    The socket that holds its port is not closed before the end, so that a new process can have the same one.
    """

    def __init__(self, checkout: Path) -> None:
        self._checkout = checkout
        self._held = reserve("127.0.0.1", 0)
        self.address = self._held.getsockname()[:2]
        self._folder = tempfile.TemporaryDirectory(prefix="hostile-")
        self._start()

    def replace(self) -> None:
        """End the process, which may be stuck, and start another.  Raises RuntimeError if that does not answer."""
        self._end()
        self._start()

    def stop(self) -> None:
        """End the process for good."""
        self._end()
        self._held.close()
        self._folder.cleanup()

    def _start(self) -> None:
        peers = Path(tempfile.mkdtemp(dir=self._folder.name)) / "peers"
        peers.mkdir()
        command = [sys.executable, "-P", str(STAND_IN), str(self._checkout / CONFIG), str(self.address[1]), str(peers)]
        environment = os.environ | {"PYTHONPATH": str(self._checkout)}
        log = (peers.parent / "log").open("wb")
        self._process = subprocess.Popen(command, cwd=self._checkout, env=environment, stdout=log, stderr=log)
        self.pid = self._process.pid
        deadline_s = time.monotonic() + START_S
        while time.monotonic() < deadline_s and self._process.poll() is None:
            if is_alive(self.address, 1.0):
                return
            time.sleep(0.1)
        self._end()
        raise RuntimeError(
            f"the gateway of {self._checkout} did not start: {(peers.parent / 'log').read_text()[-2000:]}"
        )

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()
