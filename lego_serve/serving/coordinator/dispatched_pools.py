"""Where the jobs of one of several gateways run: what dispatchers decide, who know the jobs of all of them.

While a dispatcher does not answer nobody waits for it: there is no forecast, and calls go to one of two workers at
random that have their model.
"""

import asyncio
import secrets
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from lego_serve.core.jobs.forecast import Forecast
from lego_serve.core.jobs.job import Job, JobResult
from lego_serve.core.jobs.journal import Journal
from lego_serve.core.placement.cells import cell_of, less_busy
from lego_serve.core.placement.dispatch_messages import SentJob
from lego_serve.core.placement.dispatched_jobs import DispatchedJobs
from lego_serve.core.placement.pool_jobs import Steal
from lego_serve.core.workflow.graph import Workflow
from lego_serve.serving.coordinator.dispatcher import Dispatcher
from lego_serve.serving.coordinator.dispatcher_link import DispatcherLink, LinkTimes
from lego_serve.serving.coordinator.job_pools import JobPools
from lego_serve.serving.coordinator.placement import UNKNOWN_S, JobReader, Placement, note_steal

USUAL = LinkTimes()
DECISION = "dispatcher"  # the kind of decisions about whether it answers


@dataclass(slots=True)
class _InFlight:
    """A job with its dispatcher, and its seconds as they were predicted at first."""

    job: Job
    workflow: Workflow
    app: str
    link: DispatcherLink
    seconds: float
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class DispatchedPools:
    """The placement of a gateway's jobs by dispatchers, one for each cell of workers."""

    def __init__(
        self,
        apps: Mapping[tuple[str, str], str],
        hosted: Mapping[tuple[str, str], str],
        clock: Callable[[], float],
        journal: Journal,
        dispatchers: Sequence[Dispatcher],
        *,
        gateway: str | None = None,
        times: LinkTimes = USUAL,
    ) -> None:
        """``gateway`` is a name that no other process ever had."""
        self._clock, self._journal, self._times = clock, journal, times
        self._reader = JobReader(apps, hosted)
        name = gateway or secrets.token_hex(8)
        self._links = [
            DispatcherLink(each, DispatchedJobs(name), clock, self._take_answer, times) for each in dispatchers
        ]
        self._missed: set[int] = set()  # the cells whose dispatcher was said to be gone
        self._offered: dict[str, DispatcherLink] = {}  # who keeps the place of a job that has not begun
        self._jobs: dict[str, _InFlight] = {}
        self.on_moved: Callable[[str], None] = lambda job_id: None

    def report(self, app: str, resident: Mapping[str, Collection[str]]) -> None:
        """Take which replicas an application has, and the models that each holds."""
        if app not in self._reader.pools:
            return
        for cell, link in enumerate(self._links):
            mine = {name: models for name, models in resident.items() if cell_of(name, len(self._links)) == cell}
            link.jobs.see(app, mine)
            link.wake()

    def left(self, replicas: Collection[str]) -> None:
        """Replicas are not to be used any more."""
        for link in self._links:
            link.jobs.left(replicas)
            link.wake()

    def set_aside(self, replicas: Collection[str]) -> None:
        """These replicas, and no others, drain or hang."""
        for link in self._links:
            link.jobs.set_aside(replicas)
            link.wake()

    def held_back(self, model: str, replica: str, for_s: float, job_id: str | None) -> bool:
        """A shared worker could not load a model; return whether another one has it or may load it."""
        app, now = self._reader.app_of.get(model, ""), self._clock()
        link = self._links[cell_of(replica, len(self._links))]
        link.jobs.held_back(app, replica, model, now + for_s, job_id or "")
        link.wake()
        return any(each.jobs.may_load(app, model, now) for each in self._links)

    async def offer(self, job: Job, workflow: Workflow) -> Forecast | None:
        """Say when a newcomer would end, and keep its place if that is in time; None where nobody says so soon."""
        app, seconds = self._reader.app(workflow), self._reader.seconds(job)
        if app is None or seconds is None:
            return None
        made = self._reader.pool_job(job, workflow, seconds)
        sent = SentJob(made.id, app, seconds, made.models, made.deadline_s - self._clock(), made.tenant)
        link = self._links[self._cell(job.id)]
        told = await link.offer(sent)
        if told is None:
            return None
        if told.retry_after_s is None:
            self._offered[job.id] = link
        return Forecast(self._clock() + told.in_s, told.place, told.retry_after_s)

    def withdraw(self, job_id: str) -> None:
        """A job that was offered does not begin after all; nothing happens for one that has begun."""
        link = self._offered.pop(job_id, None)
        if link is not None:
            link.withdraw(job_id)

    def add(self, job: Job, workflow: Workflow) -> None:
        """A job begins."""
        app = self._reader.app(workflow)
        if app is None:
            return
        link, seconds = self._offered.pop(job.id, None), self._reader.seconds(job) or UNKNOWN_S
        if link is None or not link.is_here:
            link = self._links[self._cell(job.id)]
        self._jobs[job.id] = _InFlight(job, workflow, app, link, seconds)
        link.jobs.add(self._reader.pool_job(job, workflow, seconds), app)
        link.wake()
        if not link.is_here:
            self._note_absence(self._links.index(link), link)

    def progressed(self, job_id: str, step: int, steps: int) -> None:
        """A lane of a job has done so many of its steps."""
        known = self._jobs.get(job_id)
        if known is not None and steps > 0:
            known.link.jobs.progressed(job_id, known.seconds * (1.0 - step / steps))

    def end(self, job_id: str, result: JobResult | None) -> None:
        """A job has ended; ``result``: what it came to, if all went well."""
        known = self._jobs.pop(job_id, None)
        if known is None:
            return
        known.changed.set()
        if result is not None:
            loads = self._reader.learn(known.job, known.workflow, result)
            for model, seconds in loads:
                for link in self._links:
                    link.jobs.loaded(known.app, model, seconds)
        known.link.jobs.end(job_id)
        known.link.wake()

    async def bound(self, job_id: str) -> None:
        """Wait until a job's calls to shared workers have a place to go, or the dispatcher is silent."""
        known = self._jobs.get(job_id)
        limit_s = asyncio.get_running_loop().time() + self._times.forecast_s
        while known is not None and self._waits(known):
            known.changed.clear()
            until_s = None if known.link.jobs.is_heard(job_id) else limit_s
            try:
                async with asyncio.timeout_at(until_s):
                    await known.changed.wait()
            except TimeoutError:
                return

    def target(self, job_id: str | None) -> str:
        """Return the worker a job is placed on; empty where it is on none, or its dispatcher does not answer."""
        known = self._jobs.get(job_id or "")
        if known is None:
            return ""
        replica = known.link.jobs.replica_of(known.job.id) if known.link.is_here else ""
        if not replica:
            known.link.jobs.went_alone(known.job.id)
        return replica

    def waiting(self) -> dict[str, int]:
        """Return how many of this gateway's jobs wait for a shared worker, by application."""
        jobs = self._jobs.values()
        return dict(Counter(known.app for known in jobs if known.app in self._reader.shared and self._waits(known)))

    def _waits(self, known: _InFlight) -> bool:
        """Whether a job that goes on will have a place soon."""
        if not known.link.is_here or self._jobs.get(known.job.id) is not known:
            return False
        jobs = known.link.jobs
        return not jobs.replica_of(known.job.id) and (known.app in jobs.apps or not jobs.is_heard(known.job.id))

    def _cell(self, job_id: str) -> int:
        return less_busy(job_id, [link.jobs.work_s if link.is_here else None for link in self._links])

    def _take_answer(self, link: DispatcherLink, taken: list[Steal] | None) -> None:
        """Have jobs go on where they are placed now, or without a place."""
        cell = self._links.index(link)
        if taken is None and any(known.link is link for known in self._jobs.values()):
            self._note_absence(cell, link)
        elif taken is not None and cell in self._missed:
            self._missed.discard(cell)
            self._journal.decide(DECISION, self._name(cell), "it answers again and places jobs", self._clock())
        for known in self._jobs.values():
            if known.link is link:
                known.changed.set()
        for steal in taken or ():
            known = self._jobs[steal.job]
            note_steal(self._journal, known.job, steal, self._clock())
            self.on_moved(steal.job)

    def _note_absence(self, cell: int, link: DispatcherLink) -> None:
        if cell not in self._missed:
            self._missed.add(cell)
            why = "it does not answer: there are no forecasts, and calls go to workers by what this gateway knows"
            self._journal.decide(DECISION, self._name(cell), why, self._clock())

    def _name(self, cell: int) -> str:
        """The dispatcher's name in decisions: that of its workers' application."""
        app = min(self._reader.shared, default="")
        return app if len(self._links) == 1 else f"{app} cell {cell}"


def placement(
    apps: Mapping[tuple[str, str], str],
    hosted: Mapping[tuple[str, str], str],
    clock: Callable[[], float],
    journal: Journal,
    *,
    is_alone: bool,
    dispatchers: Sequence[Dispatcher],
) -> Placement:
    """Return who places a gateway's jobs: itself where it is alone, else dispatchers, or nobody where there is none."""
    if dispatchers and not is_alone:
        return DispatchedPools(apps, hosted, clock, journal, dispatchers)
    return JobPools(apps, hosted, clock, journal, binds=is_alone)
