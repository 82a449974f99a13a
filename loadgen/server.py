"""The servers under test, each started on a free port as a user starts it."""

import asyncio
import os
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol

import httpx2

from loadgen.children import Child, free_port
from loadgen.client import Deadline, ImagesClient, Sample, drive, open_http
from loadgen.traffic import Arrivals, ImageRequest

READY_S = 180.0


class Server(Protocol):
    """A running server that answers over HTTP; ``ready_s`` is how many seconds its start took."""

    ready_s: float

    @property
    def dtype(self) -> str:
        """The dtype that the server reports to compute in."""
        ...

    def run(
        self,
        requests: Sequence[ImageRequest],
        arrivals: Arrivals,
        rng: random.Random,
        deadline_s: Deadline | None = None,
    ) -> list[Sample]:
        """Send the requests as the arrivals say and return when all are answered."""
        ...


class HttpServer:
    """A server that runs as a child process while the ``with`` block does."""

    def __init__(self, command: Sequence[str], model: str, log: Path, env: Mapping[str, str] | None = None) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.ready_s = 0.0
        self._ready_url = f"{self.url}/health/ready"
        self._model = model
        self._child = Child([*command, "--port", str(port)], log, {**os.environ, **(env or {})})

    def __enter__(self) -> "HttpServer":
        self._child.__enter__()
        try:
            self.ready_s = self._child.wait_until_ready(self._ready_url, READY_S)
        except BaseException:
            self._child.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child.__exit__(kind, error, trace)

    @property
    def dtype(self) -> str:
        """The dtype that the server reports to compute in, or "unknown"."""
        status = httpx2.get(self._ready_url, timeout=10.0).json()
        return str(status.get("dtype", "unknown"))

    def memory_bytes(self) -> int:
        """Return the bytes of main memory that all its processes take."""
        return self._child.memory_bytes()

    def run(
        self,
        requests: Sequence[ImageRequest],
        arrivals: Arrivals,
        rng: random.Random,
        deadline_s: Deadline | None = None,
    ) -> list[Sample]:
        """Send the requests over HTTP as the arrivals say."""
        return asyncio.run(self._run(requests, arrivals, rng, deadline_s))

    async def _run(
        self, requests: Sequence[ImageRequest], arrivals: Arrivals, rng: random.Random, deadline_s: Deadline | None
    ) -> list[Sample]:
        async with open_http(self.url) as http:
            return await drive(ImagesClient(http, self._model, deadline_s).send, requests, arrivals, rng)


def lego_server(config: Path, model: str, log: Path, env: Mapping[str, str] | None = None) -> HttpServer:
    """Return ``lego-serve serve CONFIG``; ``env`` is added to the environment of its processes."""
    return HttpServer([sys.executable, "-m", "lego_serve.cli.main", "serve", str(config)], model, log, env)


def monolith(
    weights: Path,
    max_sequence_length: int,
    log: Path,
    *,
    replicas: int,
    threads: int,
    compiled: bool,
    addons: Path | None = None,
    edits: bool = False,
    workflows: Sequence[str] = (),
) -> HttpServer:
    """Return diffusers' pipeline behind FastAPI on Ray Serve, with ``threads`` torch threads in each replica.

    ``addons`` is the file that says where adapters and ControlNets lie; with ``edits`` the server only edits images.
    Each of ``workflows`` has replicas of its own, the first at the root and the others at a path of their name.
    """
    command = [sys.executable, "-m", "loadgen.baselines.monolith", "--weights", str(weights)]
    command += ["--max-sequence-length", str(max_sequence_length)]
    command += ["--replicas", str(replicas), "--threads", str(threads)]
    if compiled:
        command.append("--compile")
    if addons is not None:
        command += ["--addons", str(addons)]
    if edits:
        command.append("--edits")
    if workflows:
        command += ["--workflows", ",".join(workflows)]
    return HttpServer(command, weights.name, log)
