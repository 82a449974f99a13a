"""A gateway with durable jobs that serves ComfyUI's protocol on a real socket, so that WebSockets open."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx2

from lego_serve.gateway.app import create_app
from lego_serve.gateway.jobs.parts import JobStorage
from lego_serve.gateway.settings import GatewaySettings
from lego_serve.gateway.transport.draining import Draining
from lego_serve.gateway.transport.limits import ConnectionLimits
from lego_serve.gateway.transport.server import GatewayServer, create_server
from lego_serve.jobstore.memory import MemoryJobStore
from lego_serve.metrics import Metrics
from tests.support.gateway.durable import LEASE_S, QUICK
from tests.support.gateway.runner import FakeRunner


class Served:
    """A gateway that listens: its server, a client of it, and its port."""

    def __init__(self, server: GatewayServer, client: httpx2.AsyncClient, port: int) -> None:
        self.server, self.client, self.port = server, client, port

    async def ended(self, prompt_id: str) -> dict[str, object]:
        """The history of a prompt, as soon as it has one."""
        async with asyncio.timeout(60):
            while not (history := (await self.client.get(f"/history/{prompt_id}")).json()):
                await asyncio.sleep(0.01)
        entry: dict[str, object] = history[prompt_id]
        return entry


def memory_storage(folder: Path, owner: str = "gateway", store: MemoryJobStore | None = None) -> JobStorage:
    """A store in memory, and files in a folder."""
    folder.mkdir(exist_ok=True)
    return JobStorage.in_folder(store or MemoryJobStore(time.time, LEASE_S), folder, replace(QUICK, owner=owner))


@asynccontextmanager
async def served(
    runner: FakeRunner, settings: GatewaySettings, storage: JobStorage | None, **limits: float
) -> AsyncIterator[Served]:
    """Serve within limits of connections, and stop in good order."""
    draining = Draining()
    app = create_app(runner, runner, settings, Metrics(), draining=draining, storage=storage)
    server = create_server(app, ConnectionLimits(**limits), draining, 1.0, log_level="error", lifespan="on")
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    port = bound.getsockname()[1]
    serving = asyncio.ensure_future(server._serve([bound]))
    while not server.started:
        await asyncio.sleep(0.01)
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        yield Served(server, client, port)
    server.should_exit = True
    await serving
