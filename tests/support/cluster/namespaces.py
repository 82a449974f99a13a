"""Machines that are network namespaces of this one, on a bridge of their own; for root alone."""

import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

NUMBERS = itertools.count(1)


def why_not() -> str | None:
    """Why there can be none here, in words; None where there can."""
    if os.geteuid() != 0:
        return "namespaces need root"
    if any(shutil.which(program) is None for program in ("ip", "unshare", "nsenter", "mount")):
        return "namespaces need ip, unshare, nsenter and mount"
    probe = subprocess.run(["unshare", "-nm", "true"], capture_output=True, check=False)
    return None if probe.returncode == 0 else "namespaces are not allowed here"


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Machine:
    """A namespace with an address, its own /tmp/ray, its own shared memory, and no name server.

    Each question to a name server that cannot be reached takes six seconds, and Ray asks for the names of addresses: a
    machine that joined took longer so than the thirty seconds that Ray gives it.
    """

    def __init__(self, name: str, address: str, folder: Path) -> None:
        self.name, self.address, self._folder = name, address, folder

    def start(self, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
        """Start a program there; what it starts ends with it, since it is the first process of its namespace."""
        own = self._folder / self.name
        own.mkdir(parents=True, exist_ok=True)
        names = self._folder / "resolv.conf"
        names.touch()
        script = f'mount --bind "{own}" /tmp/ray && mount --bind "{names}" /etc/resolv.conf'
        script += ' && mount -t tmpfs tmpfs /dev/shm && exec "$@"'
        Path("/tmp/ray").mkdir(exist_ok=True)
        inside = ["unshare", "-mpiu", "--fork", "--kill-child", "--mount-proc", "sh", "-c", script, "sh", *command]
        words = ["nsenter", f"--net=/run/netns/{self.name}", *inside]
        with log.open("ab") as file:
            return subprocess.Popen(words, stdout=file, stderr=file, env=dict(environment), start_new_session=True)

    def run(self, *command: str, timeout_s: float = 60) -> "subprocess.CompletedProcess[str]":
        """Run a program in its network."""
        words = ["nsenter", f"--net=/run/netns/{self.name}", *command]
        return subprocess.run(words, capture_output=True, text=True, timeout=timeout_s, check=False)


@contextmanager
def machines(count: int, folder: Path) -> Iterator[list[Machine]]:
    """So many machines that reach each other and nothing else."""
    tag = f"lg{os.getpid() % 10000}x{next(NUMBERS)}"
    bridge, names = f"{tag}b", [f"{tag}n{index}" for index in range(count)]
    _ip("link", "add", bridge, "type", "bridge")
    try:
        _ip("link", "set", bridge, "up")
        found = []
        for index, name in enumerate(names):
            address, outer = f"10.213.7.{10 + index}", f"{tag}v{index}"
            _ip("netns", "add", name)
            _ip("link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("link", "set", outer, "master", bridge, "up")
            _ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", name, "link", "set", "eth0", "up")
            _ip("-n", name, "route", "add", "default", "via", "10.213.7.1")  # else Ray takes loopback for its address
            found.append(Machine(name, address, folder))
        yield found
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", bridge], capture_output=True, check=False)
