"""Gateway processes for the measurements, and what the system says of them."""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2

ROOT = Path(__file__).parents[2]
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Gateways:
    """The gateways of one server: their address and their processes."""

    url: str
    pids: tuple[int, ...]

    @property
    def processor_s(self) -> float:
        """The processor time that they have taken."""
        return sum(processor_s(pid) for pid in self.pids)


def processor_s(pid: int) -> float:
    """Return the processor time of a process, as the system counts it: in hundredths of a second."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


@contextlib.contextmanager
def running(kind: str, count: int = 1) -> Iterator[Gateways]:
    """Start gateways of a kind of site on a free port; they end afterwards."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory(prefix="lego-", dir="/tmp") as folder:
        command = [sys.executable, "-m", "benchmarks.dashboard.site", str(port), folder, kind]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        processes = [subprocess.Popen(command, cwd=ROOT, env=environment) for _ in range(count)]
        try:
            _wait(url, Path(folder), count)
            yield Gateways(url, tuple(process.pid for process in processes))
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait()


def _wait(url: str, folder: Path, count: int) -> None:
    for _ in range(600):
        with contextlib.suppress(httpx2.TransportError):
            if httpx2.get(f"{url}/health/live").status_code == 200 and len(list(folder.glob("*.sock"))) == count:
                return
        time.sleep(0.1)
    raise TimeoutError("the gateways do not answer")
