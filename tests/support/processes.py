"""What the kernel says of processes."""

import time
from collections.abc import Callable
from pathlib import Path


def wait_for(is_so: Callable[[], bool]) -> None:
    """Wait until something is so."""
    limit = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < limit
        time.sleep(0.02)


def state_of(pid: int) -> str:
    """The letter by which the kernel says what a process does: T where it is stopped, Z where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def is_alive(pid: int) -> bool:
    """Whether there is such a process."""
    return state_of(pid) != "Z"
