"""When durable jobs that wait are expected to end, from what those took that have ended here and what the store tells.

An estimate.  What a job takes is predicted by the pixels, steps and images that it asks for, at the pace of the jobs of
its workflow and tier that this gateway has run to their end, each from its claim on: the time that it had its place.
Places are those of this gateway, or as many as all gateways together have taken now.  Of the jobs of other tenants only
the number is known; they are taken for those of one tenant, whose turn comes as often.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lego_serve.core.durable_jobs.ids import claim_order
from lego_serve.core.durable_jobs.record import JobRecord, JobStatus
from lego_serve.core.durable_jobs.store import MAX_PAGE, JobQuery, JobStore
from lego_serve.core.placement.job_pace import Pace
from lego_serve.core.placement.queue_eta import Queue, left_s, spread_s
from lego_serve.core.workflow.graph import Workflow
from lego_serve.gateway.queue.asked import asked_of
from lego_serve.gateway.queue.shared_looks import SharedLooks

FRESH_S = 1.0  # for which what the store said of a queue is good enough for an estimate


@dataclass(frozen=True, slots=True)
class Standing:
    """How many of its tenant's jobs are claimed before a job, and in how many seconds it is expected to end.

    No position of one that does not wait, no expectation where no job has ended yet that would say anything.
    """

    position: int | None = None
    eta_s: float | None = None


@dataclass(frozen=True, slots=True)
class _Seen:
    """A tenant's queued jobs in the order of their claim, a page of them at most, and what else waits and runs."""

    own: tuple[JobRecord, ...]
    others: int
    running: int


class QueueTimes:
    """The queue of a gateway's store; ``wall`` is the wall clock of its records, ``places`` are the gateway's own."""

    def __init__(
        self, store: JobStore, places: int, workflows: Callable[[], Mapping[str, Workflow]], wall: Callable[[], float]
    ) -> None:
        self._store, self._places, self._workflows, self._wall = store, places, workflows, wall
        self._pace = Pace()
        self._looks = SharedLooks(self._look, FRESH_S)

    def learn(self, record: JobRecord) -> None:
        """Hear of a change: how long a job had its place that has ended well, in one attempt."""
        if record.status is JobStatus.COMPLETED and record.attempt == 1 and record.started_at is not None:
            took_s = (record.completed_at or 0.0) - record.started_at
            self._pace.learn(_kind(record), self._work(record), took_s)

    async def standing(self, record: JobRecord) -> Standing:
        """Return how a job stands.  Raises StoreUnavailable."""
        if record.status is JobStatus.IN_PROGRESS:
            return Standing(eta_s=self._left_s(record))
        if record.status is not JobStatus.QUEUED:
            return Standing()
        position = await self._store.position(record)
        own_s = self._seconds(record)
        if position is None or own_s is None:
            return Standing(position)
        seen = await self._looks.ask(record.request.tenant)
        before = [each for each in seen.own if each.id != record.id][:position]
        known_s = self._all_seconds(before, own_s)
        mean_s = sum(known_s) / len(known_s) if known_s else own_s
        known_s += [mean_s] * (position - len(known_s))  # of more than a page
        return Standing(position, round(self._queue(seen, mean_s).eta_s(known_s, own_s), 3))

    async def etas_s(self, tenant: str) -> Mapping[str, float]:
        """Return in how many seconds each of a tenant's queued jobs is expected to end, those of a page by their ids.

        Empty where nothing is known yet.  Raises StoreUnavailable.
        """
        seen = await self._looks.ask(tenant)
        if not seen.own or self._seconds(seen.own[0]) is None:
            return {}
        waiting_s = self._all_seconds(seen.own, 0.0)
        etas_s = self._queue(seen, sum(waiting_s) / len(waiting_s)).etas_s(waiting_s)
        return {record.id: round(eta_s, 3) for record, eta_s in zip(seen.own, etas_s, strict=True)}

    def _left_s(self, record: JobRecord) -> float | None:
        """What is left of a job that runs: as its lanes tell, or before they do as its kind has taken."""
        told_s, own_s = record.progress.eta_s, self._seconds(record)
        if told_s is not None or own_s is None or record.started_at is None:
            return told_s
        return round(left_s(own_s, self._wall() - record.started_at), 3)

    def _queue(self, seen: _Seen, mean_s: float) -> Queue:
        places = max(self._places, seen.running)
        return Queue(places, spread_s(mean_s, seen.running), [mean_s] * seen.others)

    async def _look(self, tenant: str) -> _Seen:
        """Ask the store for a tenant's queue and what else there is."""
        page = await self._store.page(JobQuery(tenant, MAX_PAGE, ascending=True, status=JobStatus.QUEUED))
        counts = await self._store.counts()
        own = len(page.jobs) if not page.has_more else (await self._store.held(tenant)).open_jobs
        return _Seen(tuple(sorted(page.jobs, key=claim_order)), max(0, counts.queued - own), counts.in_progress)

    def _all_seconds(self, records: Sequence[JobRecord], unknown_s: float) -> list[float]:
        every = (self._seconds(record) for record in records)
        return [unknown_s if seconds is None else seconds for seconds in every]

    def _seconds(self, record: JobRecord) -> float | None:
        return self._pace.guess(_kind(record), self._work(record))

    def _work(self, record: JobRecord) -> float:
        return asked_of(record.request, self._workflows().get(record.request.workflow)).work


def _kind(record: JobRecord) -> str:
    """The name of jobs that have one pace: their workflow, and the tier that they were asked to run in."""
    body = record.request.inputs.get("body")
    tier = body.get("tier") if isinstance(body, Mapping) else None
    return f"{record.request.workflow} {tier or ''}"
