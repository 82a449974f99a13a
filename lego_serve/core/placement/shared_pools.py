"""The dispatcher's book: the jobs of several gateways on the replicas that they share, placed as one gateway would.

Each gateway's jobs are kept under its name, and forgotten together once it has not been heard of for a while.  The
replicas are those that any gateway sees.  Laws: a job is placed on a replica that is there; a gateway that is lost
takes its own jobs along and nobody else's; a report that comes twice, or after a later one, changes nothing; after a
whole report the gateway's jobs are exactly those in it.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from itertools import count

from lego_serve.core.placement.dispatch_messages import (
    DispatcherAnswer,
    Expectation,
    GatewayReport,
    JobOffer,
    JobPlace,
    Resident,
    SentJob,
)
from lego_serve.core.placement.pool import Pool
from lego_serve.core.placement.pool_jobs import PoolJob, PoolRule, Steal

LEASE_S = 5.0  # a gateway that is there reports several times a second, or once where it has no job
NUMBERS_KEPT = 1024  # of gateways whose reports may still come after they were forgotten


@dataclass(slots=True)
class _Gateway:
    heard_s: float
    jobs: dict[str, str] = field(default_factory=dict)  # application by job
    seen: dict[str, tuple[int, Resident]] = field(default_factory=dict)  # by application, with the order of telling
    told: dict[str, JobPlace] = field(default_factory=dict)  # what it knows of its jobs' places
    aside: frozenset[str] = frozenset()  # replicas that drain or hang, as it knows


class SharedPools:
    """The pools of all applications; ``shared`` are those whose idle replicas take jobs from others."""

    def __init__(self, shared: Collection[str], rule: PoolRule | None = None, lease_s: float = LEASE_S) -> None:
        self._shared, self._rule, self._lease_s = frozenset(shared), rule, lease_s
        self._pools: dict[str, Pool] = {}
        self._gateways: dict[str, _Gateway] = {}
        self._numbers: OrderedDict[str, int] = OrderedDict()  # the last report of each gateway
        self._taken: dict[str, Steal] = {}
        self._tellings = count()

    @property
    def gateways(self) -> dict[str, frozenset[str]]:
        """The gateways that it knows, each with its jobs."""
        return {name: frozenset(each.jobs) for name, each in self._gateways.items()}

    @property
    def placed(self) -> dict[str, dict[str, str]]:
        """The replica of each gateway's jobs, empty where one waits."""
        return {
            name: {job_id: self._pools[app].replica_of(_key(name, job_id)) or "" for job_id, app in each.jobs.items()}
            for name, each in self._gateways.items()
        }

    def hear(self, report: GatewayReport, now: float) -> DispatcherAnswer:
        """Take a report and place what can be placed; return where the gateway's jobs are.

        Nobody waits for the answer to one that is late, which therefore tells no place.
        """
        is_new = report.number > self._numbers.get(report.gateway, 0)
        self._forget_silent(now, but=report.gateway if is_new else "")
        gateway = self._gateways.get(report.gateway)
        if gateway is None and not (report.is_whole and is_new):
            return DispatcherAnswer(report.number, is_known=False)
        if not is_new:
            return DispatcherAnswer(report.number)
        if gateway is None:
            gateway = self._gateways[report.gateway] = _Gateway(now)
        self._note_number(report)
        gateway.heard_s = now
        self._take(report, gateway, now)
        self._place(now)
        return self._answer(report, gateway)

    def offer(self, offer: JobOffer, now: float) -> Expectation | None:
        """Say when a newcomer would end, and keep its place if that is in time; None where no replica is known."""
        self._forget_silent(now)
        job, pool = offer.job, self._pools.get(offer.job.app)
        forecast = None if pool is None else pool.offer(_pool_job(job, _key(offer.gateway, job.id), now), now)
        return None if forecast is None else Expectation(forecast.eta_s - now, forecast.place, forecast.retry_after_s)

    def _take(self, report: GatewayReport, gateway: _Gateway, now: float) -> None:
        """Take what a report says: replicas first, since jobs may have their place already."""
        changed, name = set(report.resident), report.gateway
        ended = set(report.ended & gateway.jobs.keys())
        if report.is_whole:
            ended = gateway.jobs.keys() - {job.id for job in report.added}
            changed |= gateway.seen.keys()
            gateway.seen, gateway.told = {}, {}
        for app, resident in report.resident.items():
            gateway.seen[app] = next(self._tellings), resident
        self._see(changed)
        self._leave(report.gone)
        self._set_aside(gateway, report.aside)
        for held in report.held:
            heard = _key(name, held.job) if held.job else ""
            self._pool(held.app).held_back(held.replica, held.model, now + held.for_s, heard)
        for unplaced in report.unplaced:
            gateway.told.pop(unplaced, None)
        for (app, model), seconds in report.load_s.items():
            self._pool(app).loaded(model, seconds)
        self._end(name, gateway, ended)
        for job_id in report.ended - ended:
            for pool in self._pools.values():
                pool.withdraw(_key(name, job_id))
        for job in report.added:
            key = _key(name, job.id)
            pool = self._pool(gateway.jobs.setdefault(job.id, job.app))
            pool.take(_pool_job(job, key, now), now, job.replica)
            if job.is_settled:
                pool.progressed(key, job.seconds)
        for job_id, left_s in report.left_s.items():
            if job_id in gateway.jobs:
                self._pools[gateway.jobs[job_id]].progressed(_key(name, job_id), left_s)

    def _see(self, apps: Iterable[str]) -> None:
        """Have pools know the replicas that any gateway sees, each as the one says that was heard last."""
        for app in apps:
            tellings = sorted((each.seen[app] for each in self._gateways.values() if app in each.seen), key=_order)
            self._pool(app).report({name: models for _, seen in tellings for name, models in seen.items()})

    def _leave(self, gone: frozenset[str]) -> None:
        """Replicas are gone, whoever still sees them: one that does not say so again is late."""
        for gateway in self._gateways.values() if gone else ():
            for app, (order, seen) in gateway.seen.items():
                gateway.seen[app] = order, {name: models for name, models in seen.items() if name not in gone}
        for pool in self._pools.values() if gone else ():
            pool.left(gone)

    def _set_aside(self, gateway: _Gateway, aside: frozenset[str]) -> None:
        """Take which replicas a gateway knows to drain or to hang; they are set aside whoever knows it."""
        if aside == gateway.aside:
            return
        gateway.aside = aside
        unwell = frozenset[str]().union(*(each.aside for each in self._gateways.values()))
        for pool in self._pools.values():
            pool.set_aside(unwell)

    def _end(self, name: str, gateway: _Gateway, jobs: Iterable[str]) -> None:
        for job_id in list(jobs):
            self._pools[gateway.jobs.pop(job_id)].drop(_key(name, job_id))
            self._taken.pop(_key(name, job_id), None)
            gateway.told.pop(job_id, None)

    def _forget_silent(self, now: float, but: str = "") -> None:
        """Forget gateways that were not heard of for too long, with their jobs and what they saw."""
        known = self._gateways.items()
        silent = [name for name, each in known if name != but and now - each.heard_s > self._lease_s]
        for name in silent:
            self._set_aside(self._gateways[name], frozenset())
            gateway = self._gateways.pop(name)
            self._end(name, gateway, gateway.jobs)
            self._see(gateway.seen)
        if silent:
            self._place(now)

    def _place(self, now: float) -> None:
        for app, pool in self._pools.items():
            pool.bind(now)
            for steal in pool.steal(now) if app in self._shared else ():
                self._taken[steal.job] = steal

    def _answer(self, report: GatewayReport, gateway: _Gateway) -> DispatcherAnswer:
        places = {}
        for job_id, app in gateway.jobs.items():
            key = _key(report.gateway, job_id)
            taken = self._taken.get(key)
            place = JobPlace(self._pools[app].replica_of(key) or "", taken and replace(taken, job=job_id))
            if gateway.told.get(job_id) != place:
                places[job_id] = gateway.told[job_id] = place
        apps = frozenset(app for app, pool in self._pools.items() if pool.has_replicas)
        work_s = sum(self._pools[app].work_s for app in self._shared & self._pools.keys())
        return DispatcherAnswer(report.number, True, places, apps, work_s)

    def _note_number(self, report: GatewayReport) -> None:
        self._numbers[report.gateway] = report.number
        self._numbers.move_to_end(report.gateway)
        while len(self._numbers) > NUMBERS_KEPT:
            self._numbers.popitem(last=False)

    def _pool(self, app: str) -> Pool:
        pool = self._pools.get(app)
        if pool is None:
            pool = self._pools[app] = Pool(self._rule)
            pool.set_aside(frozenset[str]().union(*(each.aside for each in self._gateways.values())))
        return pool


def _order(telling: tuple[int, Resident]) -> int:
    return telling[0]


def _key(gateway: str, job_id: str) -> str:
    """A job's name in its pool: another gateway may have one of the same id, which it took over."""
    return f"{gateway} {job_id}"


def _pool_job(job: SentJob, key: str, now: float) -> PoolJob:
    return PoolJob(key, job.seconds, job.models, now + job.due_in_s, job.tenant)
