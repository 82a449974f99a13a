"""The server under test: ``lego-serve serve`` as a user starts it, on a free port."""

import asyncio
import os
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from loadgen.children import Child, free_port
from loadgen.client import ImagesClient, Sample, drive, open_http
from loadgen.traffic import Arrivals, ImageRequest

READY_S = 180.0


class LegoServer:
    """A running server while the ``with`` block does; ``ready_s`` says how long its start took."""

    def __init__(self, config: Path, model: str, log: Path) -> None:
        port = free_port()
        command = [sys.executable, "-m", "lego_serve.cli", "serve", str(config), "--port", str(port)]
        self.url = f"http://127.0.0.1:{port}"
        self.ready_s = 0.0
        self._model = model
        self._child = Child(command, log, os.environ)

    def __enter__(self) -> "LegoServer":
        self._child.__enter__()
        try:
            self.ready_s = self._child.wait_until_ready(f"{self.url}/health/ready", READY_S)
        except BaseException:
            self._child.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child.__exit__(kind, error, trace)

    def run(self, requests: Sequence[ImageRequest], arrivals: Arrivals, rng: random.Random) -> list[Sample]:
        """Send the requests over HTTP as the arrivals say."""
        return asyncio.run(self._run(requests, arrivals, rng))

    async def _run(self, requests: Sequence[ImageRequest], arrivals: Arrivals, rng: random.Random) -> list[Sample]:
        async with open_http(self.url) as http:
            return await drive(ImagesClient(http, self._model).send, requests, arrivals, rng)
