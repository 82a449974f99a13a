"""A server that is stopped while it starts leaves nothing behind."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lego_serve.process.tree import descendants, is_alive

pytestmark = pytest.mark.ray


@pytest.mark.parametrize(
    ("number", "status", "delay_s"),
    [
        (signal.SIGTERM, 143, 0.3),
        pytest.param(signal.SIGTERM, 143, 3.0, marks=pytest.mark.long),
        pytest.param(signal.SIGINT, 130, 1.5, marks=pytest.mark.long),
    ],
)
def test_a_signal_while_ray_starts(number: signal.Signals, status: int, delay_s: float) -> None:
    """The exit status is the shell's for the signal; the temporary folder and all processes are gone."""
    command = [sys.executable, "-u", "-m", "lego_serve.cli.main", "serve", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "starting Ray\n"
    made = folders_of(process.pid)
    assert made
    time.sleep(delay_s)
    started = descendants(process.pid)
    os.kill(process.pid, number)
    assert process.wait(90) == status
    process.stdout.close()
    limit = time.monotonic() + 60
    while (left := [pid for pid in started if is_alive(pid)]) and time.monotonic() < limit:
        time.sleep(0.2)
    assert not left
    assert not [folder for folder in made if folder.exists()]


def folders_of(pid: int) -> set[Path]:
    """The temporary folders in which a server's processes have sockets: other servers make theirs at the same time."""
    opened = set()
    for process in (pid, *descendants(pid)):
        with contextlib.suppress(OSError):
            opened |= {os.readlink(file) for file in Path(f"/proc/{process}/fd").iterdir()}
    lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    paths = [Path(line[7]) for line in lines if len(line) > 7 and f"socket:[{line[6]}]" in opened]
    return {Path(*path.parts[:3]) for path in paths if path.match("/tmp/lego-*/**")}
