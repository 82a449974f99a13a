"""A gateway over a runner that answers at once: ``python -m benchmarks.gateway.stand_in PORT FOLDER``.

Server, limits, middleware, routes, durable jobs and their sqlite store are those of production; only Ray, the
coordinator and the models are not there.  A job of EVENT_STEPS steps takes as many EVENT_EVERY_S and reports each,
with the time of the report.
"""

import asyncio
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from lego_serve.core.jobs.job import GeneratedImage, Job, JobProgress, JobResult, JobState, TaskStats
from lego_serve.core.jobs.journal import Journal
from lego_serve.core.jobs.ports import CheckpointKeeper, ClusterAdmin, OnProgress
from lego_serve.core.workflow.graph import Workflow
from lego_serve.gateway.app import create_app
from lego_serve.gateway.jobs.parts import JobStorage
from lego_serve.gateway.jobs.settings import JobSettings
from lego_serve.gateway.settings import GatewaySettings
from lego_serve.gateway.transport.draining import Draining
from lego_serve.gateway.transport.limits import ConnectionLimits
from lego_serve.gateway.transport.server import create_server
from lego_serve.jobstore.sqlite import SqliteJobStore
from lego_serve.metrics import Metrics
from lego_serve.process.heap import settle_heap
from lego_serve.workflow_files import built_in_workflows

EVENT_STEPS, EVENT_EVERY_S = 50, 0.6
TIME_RANGE_S = 10_000.0  # a report carries its own time, within so many seconds, in place of the time to its end
LEASE_S = 15.0


class InstantRunner:
    """Answers each job with black images at once, but for those that are to report steps."""

    is_ready = True
    in_flight = 0

    def __init__(self) -> None:
        self.journal = Journal()
        self._workflows = {name: w for name, w in built_in_workflows().items() if w.models == {"lego-tiny"}}

    @property
    def workflows(self) -> Mapping[str, Workflow]:
        """Those of lego-tiny."""
        return self._workflows

    def now(self) -> float:
        """Return the seconds on a clock."""
        return time.monotonic()

    async def offer(self, job: Job) -> None:
        """Nothing is known."""

    def withdraw(self, job_id: str) -> None:
        """Nothing was kept."""

    async def run(
        self, job: Job, on_progress: OnProgress | None = None, checkpoints: CheckpointKeeper | None = None
    ) -> JobResult:
        """Answer black images."""
        steps = int(str(job.inputs["steps"]))
        if steps == EVENT_STEPS and on_progress is not None:
            for step in range(1, steps):
                await asyncio.sleep(EVENT_EVERY_S)
                on_progress(JobProgress(0, step, steps, time.time() % TIME_RANGE_S))
        width, height, n, seed = (int(str(job.inputs[name])) for name in ("width", "height", "n", "seed"))
        images = tuple(GeneratedImage(width, height, bytes(3 * width * height), seed + each) for each in range(n))
        return JobResult(images, 0.0, {"latents": 0.0}, 0, {"latents": TaskStats()})

    def states(self) -> list[JobState]:
        """Return nothing: no job stays."""
        return []

    def story(self, job_id: str) -> tuple[str, ...]:
        """Return nothing."""
        return ()

    def cancel(self, job_id: str) -> bool:
        """Find nothing."""
        return False

    async def pause(self, job_id: str, paused: bool) -> bool:
        """Find nothing."""
        return False


def serve(port: int, runner: InstantRunner, storage: JobStorage) -> None:
    """Serve until a signal."""
    draining = Draining()
    admin: ClusterAdmin = runner  # type: ignore[assignment]  # nobody asks it here
    gateway = GatewaySettings("lego-tiny", max_pending_jobs=2048, access_log=False)
    app = create_app(runner, admin, gateway, Metrics(), draining=draining, storage=storage)
    settle_heap()
    create_server(app, ConnectionLimits(), draining, 0.0, port=port, log_level="error").run()


def main(port: int, folder: Path) -> None:
    """Serve one gateway over an sqlite store in a folder."""
    settings = JobSettings("stand-in", max_running=1024, max_queued=100_000, lease_s=LEASE_S)
    store = SqliteJobStore(folder / "jobs.db", time.time, LEASE_S)
    serve(port, InstantRunner(), JobStorage.in_folder(store, folder, settings))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
