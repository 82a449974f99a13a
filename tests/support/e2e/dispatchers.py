"""Looks into the dispatcher of a server's shared workers, from a process of its own that joins its Ray."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from lego_serve.process.tree import descendants
from tests.support.e2e.servers import Server

NAME = "shared.workers.dispatcher.0"
LOOK = f"""
import json, sys, ray
from ray.exceptions import RayError
ray.init(address=sys.argv[1], namespace="lego_serve", log_to_driver=False, logging_level="error")
print("joined", flush=True)
for line in sys.stdin:
    try:
        seen = ray.get(ray.get_actor({NAME!r}).placed.remote(), timeout=5)
    except (RayError, ValueError):
        seen = None
    print(json.dumps(seen), flush=True)
"""
Placed: TypeAlias = dict[str, dict[str, str]]  # by gateway and job


class Look:
    """Asks the dispatcher where jobs are."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def placed(self) -> Placed | None:
        """The workers of all jobs, by gateway; None while it does not answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        seen: Placed | None = json.loads(self._process.stdout.readline())
        return seen


def gateways_of(server: Server) -> dict[int, Path]:
    """The sockets of a server's gateways, by process."""
    found = {}
    for pid in descendants(server.process.pid):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        except OSError:
            continue
        if "lego_serve.gateway_process" in words:
            found[pid] = Path(words[words.index("lego_serve.gateway_process") + 4]) / f"{pid}.sock"
    return found


@contextmanager
def looking(server: Server) -> Iterator[Look]:
    """Join the server's Ray as a gateway did, with its address and its token."""
    pid = min(gateways_of(server))
    words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    address = words[words.index("lego_serve.gateway_process") + 2]
    address = Path(address).read_text() if Path(address).exists() else address
    entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    environment = dict(os.fsdecode(each).split("=", 1) for each in entries if b"=" in each)
    command = [sys.executable, "-c", LOOK, address]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "joined\n"
        yield Look(process)
        assert process.stdin is not None
        process.stdin.close()


def wait_for(look: Look, is_so: Callable[[Placed], bool], patience_s: float = 120.0) -> Placed:
    """Look until something is so, and return what was seen."""
    limit = time.monotonic() + patience_s
    seen: Placed | None = None
    while time.monotonic() < limit:
        seen = look.placed()
        if seen is not None and is_so(seen):
            return seen
        time.sleep(0.1)
    raise AssertionError(f"not so within {patience_s:g} s: {seen}")
