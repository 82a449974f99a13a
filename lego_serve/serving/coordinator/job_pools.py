"""Where a coordinator's jobs run: what the core's pools decide, heard and carried out in one gateway process."""

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from lego_serve.core.jobs.forecast import Forecast
from lego_serve.core.jobs.job import Job, JobResult
from lego_serve.core.jobs.journal import Journal
from lego_serve.core.placement.pool import Pool
from lego_serve.core.workflow.graph import Workflow
from lego_serve.serving.coordinator.placement import UNKNOWN_S, JobReader, note_steal


class JobPools:
    """The placement of jobs by the one gateway that there is.

    Where it does not bind, since other gateways send jobs to the same workers and nobody knows of all of them,
    denoising goes to the worker with the least work of this gateway's among those that have its model, any other call
    to one of two of these at random.
    """

    def __init__(
        self,
        apps: Mapping[tuple[str, str], str],
        hosted: Mapping[tuple[str, str], str],
        clock: Callable[[], float],
        journal: Journal,
        *,
        binds: bool = True,
    ) -> None:
        self._clock, self._journal, self._binds = clock, journal, binds
        self._reader = JobReader(apps, hosted)
        self._pools = {app: Pool() for app in self._reader.pools}
        self._jobs: dict[str, _InFlight] = {}
        self._waiting: dict[str, asyncio.Future[None]] = {}
        self.on_moved: Callable[[str], None] = lambda job_id: None

    def report(self, app: str, resident: Mapping[str, Collection[str]]) -> None:
        """Take which replicas an application has, and the models that each holds."""
        if app in self._pools:
            self._pools[app].report(resident)
            self._go_on(app)

    def left(self, replicas: Collection[str]) -> None:
        """Replicas are not to be used any more."""
        for app, pool in self._pools.items():
            pool.left(replicas)
            self._go_on(app)

    def set_aside(self, replicas: Collection[str]) -> None:
        """These replicas, and no others, drain or hang."""
        for app, pool in self._pools.items():
            pool.set_aside(replicas)
            self._go_on(app)

    def held_back(self, model: str, replica: str, for_s: float, job_id: str | None) -> bool:
        """A shared worker could not load a model; return whether another one has it or may load it."""
        app, now = self._reader.app_of.get(model, ""), self._clock()
        pool = self._pools.get(app)
        if pool is None:
            return False
        pool.held_back(replica, model, now + for_s, job_id or "")
        self._go_on(app)
        return pool.may_load(model, now)

    async def offer(self, job: Job, workflow: Workflow) -> Forecast | None:
        """Say when a newcomer would end, and keep its place if that is in time; None where that is not known yet."""
        app, seconds = self._reader.app(workflow), self._reader.seconds(job)
        if app is None or seconds is None:
            return None
        return self._pools[app].offer(self._reader.pool_job(job, workflow, seconds), self._clock())

    def withdraw(self, job_id: str) -> None:
        """A job that was offered does not begin after all; nothing happens for one that has begun."""
        for app, pool in self._pools.items():
            if pool.withdraw(job_id):
                self._go_on(app)

    def add(self, job: Job, workflow: Workflow) -> None:
        """A job begins."""
        app = self._reader.app(workflow)
        if app is not None:
            seconds = self._reader.seconds(job) or UNKNOWN_S
            self._jobs[job.id] = _InFlight(job, workflow, app, self._pools[app], seconds)
            self._wake(self._pools[app].add(self._reader.pool_job(job, workflow, seconds), self._clock()))

    def progressed(self, job_id: str, step: int, steps: int) -> None:
        """A lane of a job has done so many of its steps."""
        known = self._jobs.get(job_id)
        if known is not None and steps > 0:
            known.pool.progressed(job_id, known.seconds * (1.0 - step / steps))

    def end(self, job_id: str, result: JobResult | None) -> None:
        """A job has ended; ``result``: what it came to, if all went well."""
        known = self._jobs.pop(job_id, None)
        if known is None:
            return
        self._waiting.pop(job_id, None)
        if result is not None:
            loads = self._reader.learn(known.job, known.workflow, result)
            for model, seconds in loads:
                known.pool.loaded(model, seconds)
        self._wake(known.pool.end(job_id, self._clock()))
        self._steal(known.app)

    async def bound(self, job_id: str) -> None:
        """Wait until a job's calls to shared workers have a place to go."""
        known = self._jobs.get(job_id)
        if not self._binds or known is None:
            return
        pool = known.pool
        while job_id in self._jobs and pool.has_replicas and pool.replica_of(job_id) is None:
            future = self._waiting.setdefault(job_id, asyncio.get_running_loop().create_future())
            await asyncio.shield(future)

    def target(self, job_id: str | None) -> str:
        """Return the worker a job is placed on; empty where it is on none."""
        known = self._jobs.get(job_id or "")
        return "" if not self._binds or known is None else known.pool.replica_of(known.job.id) or ""

    def waiting(self) -> dict[str, int]:
        """Return how many jobs wait here for a shared worker, by application."""
        if not self._binds:
            return {}  # their calls are sent at once
        pools = ((app, pool) for app, pool in self._pools.items() if app in self._reader.shared and pool.has_replicas)
        return {app: pool.waiting for app, pool in pools if pool.waiting}

    def _go_on(self, app: str) -> None:
        """Bind what has room now, and have replicas without work take what others have not begun."""
        self._wake(self._pools[app].bind(self._clock()))
        self._steal(app)

    def _steal(self, app: str) -> None:
        if not self._binds or app not in self._reader.shared:
            return
        for steal in self._pools[app].steal(self._clock()):
            note_steal(self._journal, self._jobs[steal.job].job, steal, self._clock())
            self.on_moved(steal.job)

    def _wake(self, bound: list[tuple[str, str]]) -> None:
        for job_id, _ in bound:
            future = self._waiting.pop(job_id, None)
            if future is not None and not future.done():
                future.set_result(None)


@dataclass(frozen=True, slots=True)
class _InFlight:
    """A job with its pool, and its seconds as they were predicted at first."""

    job: Job
    workflow: Workflow
    app: str
    pool: Pool
    seconds: float
