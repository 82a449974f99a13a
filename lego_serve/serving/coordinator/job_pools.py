"""Where a coordinator's jobs run: what the core's pools decide, heard and carried out in one gateway process."""

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from lego_serve.core.jobs.forecast import Forecast
from lego_serve.core.jobs.job import Job, JobResult
from lego_serve.core.jobs.journal import Journal
from lego_serve.core.placement.job_pace import JobPace
from lego_serve.core.placement.pool import Pool, PoolJob
from lego_serve.core.workflow.graph import KINDS, Workflow

UNKNOWN_S = 1.0  # of a job before one of its workflow has ended: replicas then fill up by number


class JobPools:
    """Places jobs on shared workers, and predicts when any job ends.

    ``apps``: the application of each node, ``hosted`` the names of those on shared workers.  Where it does not bind,
    since other gateways send jobs to the same workers, calls go to one of two workers at random that have their model.
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
        self._apps, self._hosted, self._clock, self._journal = apps, hosted, clock, journal
        self._binds = binds
        self._pools = {app: Pool() for (_, component), app in apps.items() if component == "backbone"}
        self._pace = JobPace()
        self._jobs: dict[str, _InFlight] = {}
        self._waiting: dict[str, asyncio.Future[None]] = {}
        self._shared = {app for key, app in apps.items() if hosted.get(key)}
        self.on_moved: Callable[[str], None] = lambda job_id: None  # called with a job that is now placed elsewhere

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

    def forecast(self, job: Job, workflow: Workflow) -> Forecast | None:
        """Say when a newcomer would end; None where that cannot be known yet."""
        app, seconds = self._app(workflow), self._pace.seconds(job)
        if app is None or seconds is None:
            return None
        return self._pools[app].forecast(self._pool_job(job, workflow, seconds), self._clock())

    def add(self, job: Job, workflow: Workflow) -> None:
        """A job begins."""
        app = self._app(workflow)
        if app is not None:
            seconds = self._pace.seconds(job) or UNKNOWN_S
            self._jobs[job.id] = _InFlight(job, workflow, app, self._pools[app], seconds)
            self._wake(self._pools[app].add(self._pool_job(job, workflow, seconds), self._clock()))

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
            self._pace.learn(known.job, result.stats)
            self._note_loads(known, result)
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

    def _app(self, workflow: Workflow) -> str | None:
        """The pool of a workflow: that of its first backbone."""
        nodes = ((node.model, KINDS[node.kind].component) for node in workflow.nodes.values())
        return next((self._apps[node] for node in nodes if node[1] == "backbone" and node in self._apps), None)

    def _pool_job(self, job: Job, workflow: Workflow, seconds: float) -> PoolJob:
        nodes = ((node.model, KINDS[node.kind].component) for node in workflow.nodes.values())
        models = frozenset(name for name in (self._hosted.get(node, "") for node in nodes) if name)
        deadline_s = float("inf") if job.deadline_s is None else job.deadline_s
        return PoolJob(job.id, seconds, models, deadline_s, job.tenant)

    def _go_on(self, app: str) -> None:
        """Bind what has room now, and have replicas without work take what others have not begun."""
        self._wake(self._pools[app].bind(self._clock()))
        self._steal(app)

    def _steal(self, app: str) -> None:
        if not self._binds or app not in self._shared:
            return
        for steal in self._pools[app].steal(self._clock()):
            idle, busy = steal.after[-4:], steal.before[-4:]
            why = f"{idle} had no work and ends it {steal.sooner_s:.1f} s sooner than {busy}, where it had not begun"
            workflow = self._jobs[steal.job].job.workflow
            self._journal.decide("steal", workflow, why, self._clock(), job=steal.job)
            self.on_moved(steal.job)

    def _wake(self, bound: list[tuple[str, str]]) -> None:
        for job_id, _ in bound:
            future = self._waiting.pop(job_id, None)
            if future is not None and not future.done():
                future.set_result(None)

    def _note_loads(self, ended: "_InFlight", result: JobResult) -> None:
        """Take note of the loads that a job waited for: what they take, and that it waited."""
        for node, stats in result.stats.items():
            if stats.load_s:
                made = ended.workflow.nodes[node]
                model = self._hosted.get((made.model, KINDS[made.kind].component), "")
                ended.pool.loaded(model, stats.load_s)
                why = f"job {ended.job.id} waited {stats.load_s:.2f} s for {model or node}"
                self._journal.decide("load", ended.job.workflow, why, self._clock(), job=ended.job.id)


@dataclass(frozen=True, slots=True)
class _InFlight:
    """A job with its pool, and its seconds as they were predicted at first."""

    job: Job
    workflow: Workflow
    app: str
    pool: Pool
    seconds: float
