"""A gateway with durable jobs over a runner that answers at once, and others that share its store."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx2
from fastapi import FastAPI
from opentelemetry.trace import TracerProvider

from lego_serve.core.durable_jobs.store import JobStore
from lego_serve.gateway.app import create_app
from lego_serve.gateway.jobs.parts import JobStorage
from lego_serve.gateway.jobs.settings import JobSettings
from lego_serve.gateway.settings import GatewaySettings
from lego_serve.gateway.transport.draining import Draining
from lego_serve.jobstore.blobs.folder import FolderBlobs
from lego_serve.jobstore.blobs.port import Blobs
from lego_serve.jobstore.files import JobFiles
from lego_serve.jobstore.running.checkpoints import Checkpoints, FileCheckpoints
from lego_serve.jobstore.running.previews import FilePreviews, Previews
from lego_serve.jobstore.sqlite import SqliteJobStore
from lego_serve.metrics import Metrics
from lego_serve.webhooks.settings import WebhookSettings
from tests.support.gateway.runner import FakeRunner

LEASE_S = 60.0  # ends where a test says so, and not because its process is held up
QUICK = JobSettings("gateway", progress_s=0.02, sweep_s=0.1, checkpoint_s=0.05, lease_s=LEASE_S)


def storage_in(folder: Path) -> JobStorage:
    """Where one gateway keeps durable jobs."""
    folder.mkdir(exist_ok=True)
    return JobStorage.in_folder(SqliteJobStore(folder / "jobs.db", time.time, LEASE_S), folder, QUICK)


@dataclass
class Gateway:
    """One gateway: its application, what it is told of a stop, and a client of it."""

    app: FastAPI
    draining: Draining
    client: httpx2.AsyncClient
    runner: FakeRunner


@dataclass
class Cluster:
    """Gateways over one database and one folder; ``settings`` are those of each.

    ``open_store`` opens another store than the database, ``open_checkpoints`` and ``open_previews`` what is no folder;
    ``blobs`` are files in another place.
    """

    folder: Path
    settings: GatewaySettings
    jobs: JobSettings = QUICK
    wall: Callable[[], float] = time.time
    webhooks: WebhookSettings = field(default_factory=WebhookSettings)
    open_store: Callable[[], JobStore] | None = None
    open_checkpoints: Callable[[], Checkpoints] | None = None
    open_previews: Callable[[], Previews] | None = None
    blobs: Blobs | None = None
    count: int = field(default=0, init=False)

    def app(
        self,
        runner: FakeRunner,
        draining: Draining | None = None,
        traces: TracerProvider | None = None,
        jobs: JobSettings | None = None,
    ) -> FastAPI:
        """Return the application of one more gateway; ``jobs`` are its own settings where it has some."""
        self.count += 1
        self.folder.mkdir(exist_ok=True)
        blobs = FolderBlobs(self.folder) if self.blobs is None else self.blobs
        storage = JobStorage(
            self.open_store() if self.open_store else SqliteJobStore(self.folder / "jobs.db", self.wall, LEASE_S),
            JobFiles(blobs),
            self.open_checkpoints() if self.open_checkpoints else FileCheckpoints(blobs),
            self.open_previews() if self.open_previews else FilePreviews(blobs),
            replace(jobs or self.jobs, owner=f"{self.jobs.owner} {self.count}"),
            self.wall,
            self.webhooks,
        )
        return create_app(
            runner, runner, self.settings, Metrics(), draining=draining, storage=storage, tracer_provider=traces
        )

    @asynccontextmanager
    async def gateway(
        self, runner: FakeRunner | None = None, token: str = "", jobs: JobSettings | None = None
    ) -> AsyncIterator[Gateway]:
        """Start one, and stop it in good order."""
        runner, draining = runner or FakeRunner(), Draining()
        app = self.app(runner, draining, jobs=jobs)
        transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
        headers = {"authorization": f"Bearer {token}"} if token else {}
        async with (
            app.router.lifespan_context(app),
            httpx2.AsyncClient(transport=transport, base_url="http://localhost", headers=headers) as client,
        ):
            yield Gateway(app, draining, client, runner)


async def wait_until(is_so: Callable[[], bool], limit_s: float = 60.0) -> None:
    """Wait for something to come about; a test whose gateway stands still fails instead."""
    limit = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < limit, f"it has not come about in {limit_s:.0f} s"
        await asyncio.sleep(0.01)


async def until(client: httpx2.AsyncClient, job_id: str, *statuses: str, limit_s: float = 60.0) -> dict[str, object]:
    """Return a job as soon as it has one of these states; all that end without any."""
    ends = statuses or ("completed", "failed", "cancelled", "expired")
    limit = time.monotonic() + limit_s
    while True:
        job: dict[str, object] = (await client.get(f"/v1/jobs/{job_id}")).json()
        if job["status"] in ends:
            return job
        assert time.monotonic() < limit, job
        await asyncio.sleep(0.01)
