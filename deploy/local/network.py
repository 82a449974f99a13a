"""A network of this machine's own for pods: a bridge, a namespace for each pod, and rules in it; for root alone."""

import ctypes
import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("ip", "nft", "nsenter", "unshare")
NUMBERS = itertools.count(1)
NEW_NETWORK = 0x40000000  # CLONE_NEWNET
FIRST_HOST = 10


def why_not() -> str | None:
    """Why there can be no such network here, in words; None where there can."""
    if os.geteuid() != 0:
        return "namespaces need root"
    if missing := [program for program in PROGRAMS if shutil.which(program) is None]:
        return f"namespaces need {', '.join(missing)}: apt-get install iproute2 nftables util-linux"
    probe = subprocess.run(["unshare", "-nm", "true"], capture_output=True, check=False)
    return None if probe.returncode == 0 else "namespaces are not allowed here"


def call(*words: str, text: str | None = None) -> str:
    """Run a program that must succeed; answers what it prints.  Raises RuntimeError with its complaint."""
    done = subprocess.run(words, input=text, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


@dataclass(frozen=True, slots=True)
class Place:
    """A namespace with an address, and the name of its cable's end at the bridge."""

    name: str
    address: str
    cable: str

    @property
    def path(self) -> Path:
        """Where the kernel shows it."""
        return Path("/run/netns") / self.name

    def enter(self) -> None:
        """Move the calling thread there, for good: what it connects to, it reaches from there.  Raises OSError."""
        handle = os.open(self.path, os.O_RDONLY)
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.setns(handle, NEW_NETWORK) != 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        finally:
            os.close(handle)

    def obey(self, rules: str) -> None:
        """Take these rules in the place of those before."""
        call("nsenter", f"--net={self.path}", "nft", "-f", "-", text=rules)

    def set_link(self, is_up: bool) -> None:
        """Pull its cable at the other end, or put it back; it reaches itself all the time."""
        call("ip", "link", "set", self.cable, "up" if is_up else "down")


class Network:
    """The bridge and who is on it; each new place has a new address, as pods do."""

    def __init__(self) -> None:
        number = next(NUMBERS)
        self._tag = f"lk{os.getpid() % 100000}x{number}"
        self._prefix = f"10.{200 + os.getpid() % 50}.{number}"
        self._hosts = itertools.count(FIRST_HOST)
        self._places: dict[str, str] = {}  # names of places, and of their ends at the bridge

    def __enter__(self) -> "Network":
        call("ip", "link", "add", f"{self._tag}b", "type", "bridge")
        call("ip", "link", "set", f"{self._tag}b", "up")
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self._places):
            self.remove(name)
        subprocess.run(["ip", "link", "del", f"{self._tag}b"], capture_output=True, check=False)

    def add(self) -> Place:
        """Make a place."""
        host = next(self._hosts)
        name, outer, address = f"{self._tag}n{host}", f"{self._tag}v{host}", f"{self._prefix}.{host}"
        call("ip", "netns", "add", name)
        self._places[name] = outer
        call("ip", "link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", name)
        call("ip", "link", "set", outer, "master", f"{self._tag}b", "up")
        call("ip", "-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            call("ip", "-n", name, "link", "set", device, "up")
        call("ip", "-n", name, "route", "add", "default", "via", f"{self._prefix}.1")  # or else Ray takes loopback
        return Place(name, address, outer)

    def remove(self, name: str) -> None:
        """Remove a place; what still runs there keeps it until its end, without a link."""
        outer = self._places.pop(name, None)
        if outer is not None:
            subprocess.run(["ip", "link", "del", outer], capture_output=True, check=False)
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


@contextmanager
def network() -> Iterator[Network]:
    """A network that is gone afterwards, whatever happened."""
    with Network() as made:
        yield made
