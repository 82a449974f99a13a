"""A gateway over a runner that answers at once, so that only HTTP is under test."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import httpx2
import pytest
from fastapi import FastAPI

from lego_serve.core.addons import AdapterCommand
from lego_serve.core.editing.reuse import ReuseStats
from lego_serve.core.editing.templates import TemplateCommand
from lego_serve.core.jobs.job import GeneratedImage, Job, JobProgress, JobResult, JobState, TaskStats
from lego_serve.core.workflow.graph import Workflow
from lego_serve.errors import CapacityError, NotFound
from lego_serve.gateway.app import create_app
from lego_serve.gateway.settings import GatewaySettings, TemplateSettings
from lego_serve.metrics import Metrics
from lego_serve.workflow_files import built_in_workflows

ADAPTERS: Mapping[str, dict[str, object]] = {
    "b": {"registered": True, "rank": 4, "bytes": 1000, "resident": ["LoRA node", "backbone:r1"]},
    "a": {"registered": False, "rank": 32, "bytes": 2000, "resident": None},
}


@cache
def tiny_workflows() -> dict[str, Workflow]:
    """Those of lego-tiny, read once."""
    return {name: w for name, w in built_in_workflows().items() if w.models == {"lego-tiny"}}


class FakeRunner:
    """Answers every job with grey images, or raises ``error``, or waits for ``gate``."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.cancelled: list[str] = []
        self.waiting: list[Job] = []
        self.asked_to_cancel: list[str] = []
        self.adapter_orders: list[AdapterCommand] = []
        self.template_orders: list[TemplateCommand] = []
        self.template_error: Exception | None = None
        self.reuse: ReuseStats | None = None
        self.asked_to_pause: list[tuple[str, bool]] = []
        self.error: Exception | None = None
        self.gate: asyncio.Event | None = None
        self.stats = {"latents": TaskStats(0.25, 1.5, False, 1, (1.5,), (1,))}
        self.names_gate: asyncio.Event | None = None  # where the names of adapters wait
        self.in_flight = 0
        self.more: dict[str, Workflow] = {}
        self.progress: list[JobProgress] = []
        self.is_ready = True

    @property
    def workflows(self) -> Mapping[str, Workflow]:
        """Those of lego-tiny, and more."""
        return tiny_workflows() | self.more

    def now(self) -> float:
        """A clock that stands still."""
        return 100.0

    async def run(self, job: Job, tell: Callable[[JobProgress], None] | None = None) -> JobResult:
        """Tell and answer as told."""
        self.loop = asyncio.get_running_loop()
        self.jobs.append(job)
        for said in self.progress if tell is not None else ():
            tell(said)  # type: ignore[misc]
            await asyncio.sleep(0)
        self.in_flight += 1
        self.waiting.append(job)
        try:
            if self.gate is not None:
                await self.gate.wait()
            if self.error is not None:
                raise self.error
        except asyncio.CancelledError:
            self.cancelled.append(job.id)
            raise
        finally:
            self.in_flight -= 1
            self.waiting.remove(job)
        width, height, n, seed = (int(str(job.inputs[k])) for k in ("width", "height", "n", "seed"))
        images = tuple(GeneratedImage(width, height, bytes(3 * width * height), seed + i) for i in range(n))
        stats = {name: replace(each, reuse=self.reuse or each.reuse) for name, each in self.stats.items()}
        return JobResult(images, 0.25, {"latents": 1.5}, 1, stats)

    async def replicas(self) -> Mapping[str, str]:
        """One."""
        return {"r1": "lego-tiny.backbone"}

    async def drain(self, replica: str) -> int:
        """Known is only r1."""
        if replica != "r1":
            raise NotFound("There is no backbone replica of this id.", code="replica_not_found")
        return 3

    async def adapters(self, order: AdapterCommand) -> Mapping[str, object]:
        """Those of lego-tiny, or the one that is named; nobody can be registered twice."""
        if order.verb == "names" and self.names_gate is not None:
            await self.names_gate.wait()
        self.adapter_orders.append(order)
        if order.name == "taken":
            raise CapacityError("No more.", code="registry_full")
        if order.verb == "register":
            return {"model": "lego-tiny", "rank": 4, "bytes": 1000}
        if order.verb == "show" and order.name not in ADAPTERS:
            raise NotFound("There is no adapter of this name.", param="id", code="adapter_not_found")
        wanted = {order.name} if order.verb == "show" else set(ADAPTERS)
        return {"model": "lego-tiny", "adapters": {name: about for name, about in ADAPTERS.items() if name in wanted}}

    async def templates(self, order: TemplateCommand) -> Mapping[str, int]:
        """A row of an entry takes 80 bytes, 100 with text; one of two replicas keeps something of every image."""
        self.template_orders.append(order)
        if self.template_error is not None:
            raise self.template_error
        if order.verb in ("rows", "entry", "text"):
            width, height = map(int, order.name.split("x"))
            rows = width * height // 256
            said = {"rows": rows, "entry": 80 * rows, "text": 20 * rows}[order.verb]
            return {"r1": said, "r2": said}
        return {"r1": 0, "r2": 5000}

    def states(self) -> list[JobState]:
        """Those that wait at the gate."""
        return [JobState(job.id, job.workflow, job.tenant, 2.5, {"latents": "running"}) for job in self.waiting]

    async def pause(self, job_id: str, paused: bool) -> bool:
        """Known is job_known."""
        self.asked_to_pause.append((job_id, paused))
        return job_id == "job_known"

    def cancel(self, job_id: str) -> bool:
        """Known are job_known and those that wait."""
        self.asked_to_cancel.append(job_id)
        return job_id == "job_known" or any(job.id == job_id for job in self.waiting)


@pytest.fixture
def runner() -> FakeRunner:
    """The runner behind the gateway."""
    return FakeRunner()


@pytest.fixture
def settings(tmp_path: Path) -> GatewaySettings:
    """No keys, small limits."""
    return GatewaySettings(
        "lego-tiny",
        max_pending_jobs=2,
        max_body_bytes=200_000,
        controlnets={"lego-tiny": frozenset({"edges", "depth"})},
        templates=TemplateSettings(tmp_path / "templates", 3, 100_000, {"lego-tiny": 300_000}),
    )


@pytest.fixture
def app(runner: FakeRunner, settings: GatewaySettings) -> FastAPI:
    """The application."""
    return create_app(runner, settings, Metrics())


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    """A client that talks to it without a socket."""
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield client
