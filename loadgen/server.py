"""The servers under test, each started as a user starts it, on a free port."""

import asyncio
import os
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import httpx2

from loadgen.children import Child, free_port
from loadgen.client import Deadline, ImagesClient, Sample, drive, open_http
from loadgen.traffic import Arrivals, ImageRequest

READY_S = 180.0


class HttpServer:
    """A running server while the ``with`` block does; ``ready_s`` says how long its start took."""

    def __init__(self, command: Sequence[str], model: str, log: Path) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.ready_s = 0.0
        self._ready_url = f"{self.url}/health/ready"
        self._model = model
        self._child = Child([*command, "--port", str(port)], log, os.environ)

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
        """The dtype it says it computes in, or "unknown"."""
        said = httpx2.get(self._ready_url, timeout=10.0).json()
        return str(said.get("dtype", "unknown"))

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


def lego_server(config: Path, model: str, log: Path) -> HttpServer:
    """``lego-serve serve CONFIG``."""
    return HttpServer([sys.executable, "-m", "lego_serve.cli.main", "serve", str(config)], model, log)


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
) -> HttpServer:
    """diffusers' pipeline behind FastAPI on Ray Serve: so many replicas of so many threads.

    ``addons`` names the file that says where adapters and ControlNets lie; with ``edits`` it edits images alone.
    """
    command = [sys.executable, "-m", "loadgen.baselines.monolith", "--weights", str(weights)]
    command += ["--max-sequence-length", str(max_sequence_length)]
    command += ["--replicas", str(replicas), "--threads", str(threads), *(["--compile"] if compiled else [])]
    command += [] if addons is None else ["--addons", str(addons)]
    command += ["--edits"] if edits else []
    return HttpServer(command, weights.name, log)
