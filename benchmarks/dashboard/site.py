"""A gateway process with nothing behind it that computes: ``python -m benchmarks.dashboard.site PORT FOLDER KIND``.

``plain`` draws what is asked for, ``many`` has 13 replicas, ``large`` has 200 models of ten replicas each and a
thousand requests in flight whose steps go on, and sends twenty patches a second, ``hurried`` ten times
as many.  Those with the same folder are gateways of one server.
"""

import asyncio
import itertools
import os
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from benchmarks.dashboard.patches import PATCHES_S, data_of, event, patches
from lego_serve.core.jobs.events import JobSubmitted
from lego_serve.core.jobs.job import Job
from lego_serve.core.nodes.requests import MemoryUse, ReplicaLoad, SeenReplica
from lego_serve.core.workflow.graph import Workflow
from lego_serve.gateway.app import create_app
from lego_serve.gateway.peers import Peers
from lego_serve.gateway.settings import GatewaySettings
from lego_serve.gateway.transport.draining import Draining
from lego_serve.gateway.transport.limits import ConnectionLimits
from lego_serve.gateway.transport.server import create_server
from lego_serve.metrics import Metrics
from lego_serve.process.sockets import shared_socket, unix_socket
from tests.support.gateway.runner import tiny_workflows
from tests.support.ui.lively import LivelyRunner

MODELS, REPLICAS_EACH, JOBS, MANY, HURRY = 200, 10, 1000, 13, 10
MEMORY = (MemoryUse("weights", 45_000_000), MemoryUse("templates", 21_000_000, 64_000_000))


class Many(LivelyRunner):
    """Thirteen replicas, as a small server has."""

    async def loads(self) -> list[SeenReplica]:
        """What is in flight, on the first of them."""
        now = int(time.monotonic())
        return [
            SeenReplica(
                f"r{i:03}", "lego-tiny", "backbone", ReplicaLoad((now + i) % 5, 0, 0.05, (3, 4), MEMORY, "m", room=8)
            )
            for i in range(MANY)
        ]


class Large(LivelyRunner):
    """Two hundred models of ten replicas each, and a thousand jobs whose steps go on."""

    def __init__(self) -> None:
        super().__init__()
        tiny = tiny_workflows()["lego-tiny"]
        self.more = {f"model-{i}": _renamed(tiny, f"model-{i}") for i in range(MODELS)}
        for index in range(JOBS):
            name = f"model-{index % MODELS}"
            job = Job(f"job_{index:04}", name, {"steps": 500, "n": 1, "width": 128, "height": 128}, self.now())
            self._feed(JobSubmitted(job, self.more[name]))
        threading.Thread(target=self._go_on, daemon=True).start()

    async def loads(self) -> list[SeenReplica]:
        """All replicas, with something in hand that changes each second."""
        now = int(time.monotonic())
        return [
            SeenReplica(
                f"r{i:03}{j}",
                f"model-{i}",
                "backbone",
                ReplicaLoad((now + j) % 9, j % 3, 0.05, (3, 4), MEMORY, "m", room=8),
            )
            for i in range(MODELS)
            for j in range(REPLICAS_EACH)
        ]

    def _go_on(self) -> None:
        for step in itertools.cycle(range(500)):
            for index in range(JOBS):
                self.journal.history.note_step(f"job_{index:04}", 0, step, 500, 9.0, self.now())
            time.sleep(0.5)


class SteadyPatches:
    """An application whose stream goes on, after its snapshot, with so many patches a second."""

    def __init__(self, app: ASGIApp, patches_s: float) -> None:
        self._app, self._patches_s = app, patches_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as the application does, but for its stream."""
        if scope["type"] != "http" or scope["path"] != "/v1/admin/events":
            await self._app(scope, receive, send)
            return

        async def send_on(message: Message) -> None:
            await send(message)
            if message["type"] == "http.response.body" and message["body"].startswith(b"event: snapshot"):
                for number, patch in enumerate(patches(data_of(message["body"]))):
                    await asyncio.sleep(1 / self._patches_s)
                    await send({"type": message["type"], "body": event("patch", number, patch), "more_body": True})

        await self._app(scope, receive, send_on)


def _renamed(workflow: Workflow, name: str) -> Workflow:
    nodes = {node: replace(each, model=name) for node, each in workflow.nodes.items()}
    return replace(workflow, name=name, nodes=nodes)


KINDS = {"plain": LivelyRunner, "many": Many, "large": Large, "hurried": Large}
PATCHES = {"large": PATCHES_S, "hurried": HURRY * PATCHES_S}


def main(port: int, folder: Path, kind: str) -> None:
    """Serve until told to stop."""
    runner, own = KINDS[kind](), folder / f"{os.getpid()}.sock"
    app: Any = create_app(runner, runner, GatewaySettings("lego-tiny"), Metrics(), Peers(folder, own))
    if kind in PATCHES:
        app = SteadyPatches(app, PATCHES[kind])
    server = create_server(app, ConnectionLimits(), Draining(), 0.0, log_level="error")
    asyncio.run(server.serve([shared_socket("127.0.0.1", port), unix_socket(own)]))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
