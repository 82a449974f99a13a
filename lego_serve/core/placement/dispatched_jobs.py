"""One gateway's side of the dispatcher's book: what it has in flight, what it has yet to tell, and where its jobs are.

After a report that may not have arrived, and for a dispatcher that does not know the gateway, the next report tells
all; so that whatever was lost, repeated or forgotten meanwhile, one answer later both sides agree.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from lego_serve.core.placement.dispatch_messages import (
    DispatcherAnswer,
    GatewayReport,
    HeldModel,
    JobPlace,
    Resident,
    SentJob,
)
from lego_serve.core.placement.pool_jobs import PoolJob, Steal


@dataclass(slots=True)
class _Told:
    """A job as it stands, with its deadline on the gateway's clock; ``place``: as the dispatcher said last."""

    job: PoolJob
    app: str
    place: JobPlace | None = None
    is_settled: bool = False


class DispatchedJobs:
    """The jobs of one gateway that a dispatcher places; times are on the gateway's clock."""

    def __init__(self, gateway: str) -> None:
        self.gateway, self._number = gateway, 0
        self._jobs: dict[str, _Told] = {}
        self._seen: dict[str, Resident] = {}
        self._load_s: dict[tuple[str, str], float] = {}
        self._tells_all = True
        self._added: set[str] = set()
        self._left: dict[str, float] = {}
        self._ended: set[str] = set()
        self._changed: set[str] = set()
        self._gone: set[str] = set()
        self._loaded: set[tuple[str, str]] = set()
        self._aside, self._is_aside_told = frozenset[str](), True
        self._held: dict[tuple[str, str, str], float] = {}  # until when, by application, replica and model
        self._heard_held: dict[tuple[str, str, str], str] = {}  # of these the news, each with the job that heard of it
        self._unplaced: set[str] = set()
        self.apps: frozenset[str] = frozenset()  # those that have replicas, as the dispatcher said last
        self.work_s = 0.0  # in hand for each worker, likewise

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def is_pressing(self) -> bool:
        """Whether there is something to tell at once: all but progress."""
        news = self._added or self._ended or self._changed or self._gone or self._heard_held or self._unplaced
        return self._tells_all or not self._is_aside_told or bool(news)

    def add(self, job: PoolJob, app: str) -> None:
        """A job begins."""
        self._jobs[job.id] = _Told(job, app)
        self._added.add(job.id)

    def progressed(self, job_id: str, left_s: float) -> None:
        """A job has begun, and still takes so many seconds."""
        told = self._jobs.get(job_id)
        if told is not None:
            told.is_settled = True
            told.job = replace(told.job, seconds=max(0.0, min(told.job.seconds, left_s)))
            self._left[job_id] = told.job.seconds

    def went_alone(self, job_id: str) -> None:
        """A call of a job was sent to whichever worker: from here on the job is not to be taken from any."""
        told = self._jobs.get(job_id)
        if told is not None and not told.is_settled:
            self.progressed(job_id, told.job.seconds)

    def end(self, job_id: str) -> None:
        """A job has ended, however."""
        if self._jobs.pop(job_id, None) is not None:
            self._left.pop(job_id, None)
            if job_id in self._added:
                self._added.discard(job_id)  # nobody has heard of it yet
            else:
                self._ended.add(job_id)

    def withdraw(self, job_id: str) -> None:
        """A job that was offered does not begin after all."""
        if job_id not in self._jobs:
            self._ended.add(job_id)

    def see(self, app: str, resident: Mapping[str, Collection[str]]) -> None:
        """Take which replicas an application has, and the models that each holds."""
        seen = {name: frozenset(models) for name, models in resident.items()}
        if self._seen.get(app) != seen:
            self._seen[app] = seen
            self._changed.add(app)

    def left(self, replicas: Collection[str]) -> None:
        """Replicas are not to be used any more; the jobs there have no place until the next answer."""
        self._gone.update(replicas)
        for app, seen in self._seen.items():
            self._seen[app] = {name: models for name, models in seen.items() if name not in replicas}
        self._unplace(replicas)

    def set_aside(self, replicas: Collection[str]) -> None:
        """These replicas, and no others, drain or hang; the jobs there have no place until the next answer."""
        aside = frozenset(replicas)
        if aside != self._aside:
            self._unplace(aside - self._aside)
            self._aside, self._is_aside_told = aside, False

    def held_back(self, app: str, replica: str, model: str, until_s: float, job_id: str = "") -> None:
        """A replica could not load a model, as a job has heard, which has no place until the next answer."""
        self._held[app, replica, model] = until_s
        self._heard_held[app, replica, model] = job_id
        told = self._jobs.get(job_id)
        if told is not None and told.place is not None and told.place.replica == replica:
            told.place = replace(told.place, replica="")
            self._unplaced.add(job_id)

    def may_load(self, app: str, model: str, now: float) -> bool:
        """Whether any replica of an application has a model or may load it, as far as is known here."""
        return any(self._held.get((app, name, model), now) <= now for name in self._seen.get(app, ()))

    def loaded(self, app: str, model: str, seconds: float) -> None:
        """Hear how long a load took."""
        self._load_s[app, model] = seconds
        self._loaded.add((app, model))

    def is_heard(self, job_id: str) -> bool:
        """Whether the dispatcher has said anything of a job."""
        told = self._jobs.get(job_id)
        return told is not None and told.place is not None

    def replica_of(self, job_id: str) -> str:
        """Return where a job is placed, as far as it is known; empty where it is nowhere."""
        told = self._jobs.get(job_id)
        return "" if told is None or told.place is None else told.place.replica

    def report(self, now: float) -> GatewayReport:
        """Return what is to be told now; it counts as told unless it is ``lost``."""
        self._number += 1
        is_whole, added = self._tells_all, list(self._jobs) if self._tells_all else sorted(self._added)
        report = GatewayReport(
            self.gateway,
            self._number,
            is_whole,
            tuple(self._sent(self._jobs[job_id], now) for job_id in added),
            {} if is_whole else dict(self._left),
            frozenset(self._ended),
            dict(self._seen) if is_whole else {app: self._seen[app] for app in sorted(self._changed)},
            frozenset(self._gone),
            dict(self._load_s) if is_whole else {load: self._load_s[load] for load in sorted(self._loaded)},
            self._aside,
            self._held_models(now, is_whole=is_whole),
            frozenset(self._unplaced),
        )
        self._tells_all, self._is_aside_told = False, True
        for news in (self._added, self._left, self._ended, self._changed, self._gone, self._loaded):
            news.clear()
        self._heard_held.clear()
        self._unplaced.clear()
        return report

    def lost(self) -> None:
        """The last report may not have arrived."""
        self._tells_all = True

    def heard(self, answer: DispatcherAnswer) -> list[Steal]:
        """Take the answer to the last report; return the jobs that were taken from a replica, each once."""
        if not answer.is_known:
            self._tells_all = True
            return []
        self.apps, self.work_s = answer.apps, answer.work_s
        taken = []
        for job_id, place in answer.places.items():
            told = self._jobs.get(job_id)
            if told is None:
                continue
            before, told.place = told.place, place
            if place.taken is not None and (before is None or before.taken is None):
                told.is_settled = True
                taken.append(place.taken)
        return taken

    def _unplace(self, replicas: Collection[str]) -> None:
        for job_id, told in self._jobs.items():
            if told.place is not None and told.place.replica in replicas:
                told.place = replace(told.place, replica="")
                self._unplaced.add(job_id)

    def _held_models(self, now: float, *, is_whole: bool) -> tuple[HeldModel, ...]:
        self._held = {held: until_s for held, until_s in self._held.items() if until_s > now}
        told = sorted(self._held.keys() if is_whole else self._held.keys() & self._heard_held.keys())
        return tuple(HeldModel(*each, self._held[each] - now, self._heard_held.get(each, "")) for each in told)

    def _sent(self, told: _Told, now: float) -> SentJob:
        job, replica = told.job, "" if told.place is None else told.place.replica
        due_in_s = job.deadline_s - now
        return SentJob(job.id, told.app, job.seconds, job.models, due_in_s, job.tenant, replica, told.is_settled)
