"""What a coordinator asks of whoever places its jobs, and how jobs look to pools."""

from collections.abc import Callable, Collection, Mapping
from typing import Protocol

from lego_serve.core.jobs.forecast import Forecast
from lego_serve.core.jobs.job import Job, JobResult
from lego_serve.core.jobs.journal import Journal
from lego_serve.core.placement.job_pace import JobPace
from lego_serve.core.placement.pool_jobs import PoolJob, Steal
from lego_serve.core.workflow.graph import Workflow, is_backbone

UNKNOWN_S = 1.0  # of a job before one of its workflow has ended: replicas then fill up by number
KEPT_FREE = 0.1  # of the time to a deadline, for predictions err, and lanes that share steps end together


class Placement(Protocol):
    """Places jobs on shared workers, and predicts when any job ends."""

    on_moved: Callable[[str], None]  # called with a job that is now placed elsewhere

    def report(self, app: str, resident: Mapping[str, Collection[str]]) -> None:
        """Take which replicas an application has, and the models that each holds."""
        ...

    def left(self, replicas: Collection[str]) -> None:
        """Replicas are not to be used any more."""
        ...

    def set_aside(self, replicas: Collection[str]) -> None:
        """These replicas, and no others, drain or hang: nothing is placed there until they are well again."""
        ...

    def held_back(self, model: str, replica: str, for_s: float, job_id: str | None) -> bool:
        """A shared worker could not load a model, as a job has heard, and does not try again for so long.

        Return whether another one has it or may load it.
        """
        ...

    async def offer(self, job: Job, workflow: Workflow) -> Forecast | None:
        """Say when a newcomer would end; None where that cannot be known yet, or soon enough.

        Where it is in time, its place is kept until it begins or is withdrawn.
        """
        ...

    def withdraw(self, job_id: str) -> None:
        """A job that was offered does not begin after all; nothing happens for one that has begun."""
        ...

    def add(self, job: Job, workflow: Workflow) -> None:
        """A job begins."""
        ...

    def progressed(self, job_id: str, step: int, steps: int) -> None:
        """A lane of a job has done so many of its steps."""
        ...

    def end(self, job_id: str, result: JobResult | None) -> None:
        """A job has ended; ``result``: what it came to, if all went well."""
        ...

    async def bound(self, job_id: str) -> None:
        """Wait until a job's calls to shared workers have a place to go."""
        ...

    def target(self, job_id: str | None) -> str:
        """Return the worker a job is placed on; empty where it is on none."""
        ...

    def waiting(self) -> dict[str, int]:
        """Return how many jobs wait here for a shared worker, by application: nobody else sees these yet."""
        ...


class JobReader:
    """Reads jobs as pools see them, and learns of those that have ended what the next of their workflow take.

    ``apps``: the application of each node, ``hosted`` the names of those on shared workers.
    """

    def __init__(self, apps: Mapping[tuple[str, str], str], hosted: Mapping[tuple[str, str], str]) -> None:
        self._apps, self._hosted = apps, hosted
        self._pace = JobPace()
        self.shared = frozenset(app for key, app in apps.items() if hosted.get(key))
        self.pools = self.shared | {app for (_, component), app in apps.items() if is_backbone(component)}
        self.app_of = {hosted[key]: app for key, app in apps.items() if hosted.get(key)}  # by the names of shared nodes

    def app(self, workflow: Workflow) -> str | None:
        """The pool of a workflow: that of its first backbone."""
        nodes = ((node.model, node.component) for node in workflow.nodes.values())
        return next((self._apps[node] for node in nodes if is_backbone(node[1]) and node in self._apps), None)

    def seconds(self, job: Job) -> float | None:
        """The seconds that a job is expected to take; None before one of its workflow has ended."""
        return self._pace.seconds(job)

    def pool_job(self, job: Job, workflow: Workflow, seconds: float) -> PoolJob:
        """A job as a pool sees it."""
        nodes = ((node.model, node.component) for node in workflow.nodes.values())
        models = frozenset(name for name in (self._hosted.get(node, "") for node in nodes) if name)
        deadline_s = float("inf")
        if job.deadline_s is not None:
            deadline_s = job.deadline_s - KEPT_FREE * max(0.0, job.deadline_s - job.submitted_s)
        return PoolJob(job.id, seconds, models, deadline_s, job.tenant)

    def learn(self, job: Job, workflow: Workflow, result: JobResult) -> list[tuple[str, float]]:
        """Hear what a job took; return the models that it waited for with the seconds."""
        self._pace.learn(job, result.stats)
        loads = []
        for node, stats in result.stats.items():
            if stats.load_s:
                made = workflow.nodes[node]
                model = self._hosted.get((made.model, made.component), "")
                loads.append((model, stats.load_s))
        return loads


def note_steal(journal: Journal, job: Job, steal: Steal, now: float) -> None:
    """Note why a job is now placed elsewhere."""
    idle, busy = steal.after[-4:], steal.before[-4:]
    why = f"{idle} had no work and ends it {steal.sooner_s:.1f} s sooner than {busy}, where it had not begun"
    journal.decide("steal", job.workflow, why, now, job=job.id)
