"""Places whole jobs on the replicas of one pool: late, by predicted ends, and with an honest answer when one comes.

A pool is what may run a job's denoising: the shared workers, or the replicas of one backbone.  Its list schedule is the
cell's: jobs by deadline, each on the replica where it ends first, models loaded where they are missing, so that a job
waits for a replica that has its models or another one loads them, whichever is sooner.  A job is bound when its replica
has room for it, and not before: what is unbound goes to whoever is free first.  A replica without work takes a job that
another one has and has not begun, if it ends sooner there, loads counted in.  Laws: a job is bound to a replica that is
there; nobody waits while a replica has no work and none is promised; a job is taken once at the most, and never the
only one of a replica; a job that would be late, or make an admitted one late, is refused; one that is admitted counts
from the answer on, until it begins, is withdrawn, or has not begun for PROMISE_S; no job is placed on a replica that is
set aside, nor on one that holds a model of it back unless all do; an event about what is gone changes nothing.
"""

from bisect import bisect_left, insort
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace

from lego_serve.core.cluster.admission import Admission, AdmissionRule
from lego_serve.core.cluster.schedule import Entry, Slots, list_schedule
from lego_serve.core.jobs.forecast import Forecast
from lego_serve.core.placement.pool_jobs import PoolJob, PoolRule, Steal
from lego_serve.core.placement.pool_replicas import Arrivals, PoolReplicas

PROMISE_S = 5.0  # for which an admitted job that was not heard of again keeps its place


class Pool:
    """The jobs and replicas of one pool, in one gateway; times are on its clock."""

    def __init__(self, rule: PoolRule | None = None) -> None:
        self._rule = rule or PoolRule()
        self._members = PoolReplicas()
        self._replicas = self._members.usable
        self._jobs: dict[str, PoolJob] = {}
        self._numbers: dict[str, int] = {}
        self._order: list[tuple[float, int, str]] = []  # of turns: deadline, number and id of each job
        self._bound: dict[str, str] = {}
        self._load_s: dict[str, float] = {}
        self._settled: set[str] = set()  # jobs that have begun, or were taken from a replica once
        self._promised: dict[str, float] = {}  # jobs that were admitted and have not begun, and until when they count
        self._count = 0
        self._admission = Admission(AdmissionRule(sheds_waiting=False))

    @property
    def waiting(self) -> int:
        """The jobs that have begun and are bound to no replica yet."""
        return len(self._jobs) - len(self._bound) - len(self._promised)

    @property
    def has_replicas(self) -> bool:
        """Whether any replica is known that may be used."""
        return bool(self._replicas)

    @property
    def work_s(self) -> float:
        """The seconds that its jobs still take, for each replica."""
        return sum(job.seconds for job in self._jobs.values()) / max(1, len(self._replicas))

    def report(self, resident: Mapping[str, Collection[str]]) -> None:
        """Take which replicas there are, and the models that each has."""
        self._unplace(self._members.report(resident))

    def left(self, names: Iterable[str]) -> None:
        """Replicas are not to be used any more; their jobs are to be bound anew."""
        self._unplace(self._members.remove(names))

    def set_aside(self, names: Collection[str]) -> None:
        """These replicas, and no others, drain or hang; their jobs are to be bound anew."""
        self._unplace(self._members.set_aside(names))

    def held_back(self, name: str, model: str, until_s: float, job_id: str = "") -> None:
        """A replica could not load a model and does not try again before then.

        Its jobs that need the model and have not begun are to be bound anew, and so is the one that heard of it.
        """
        self._members.held_back(name, model, until_s)
        for each in sorted(self._replicas[name].jobs) if name in self._replicas else ():
            if each == job_id or (each not in self._settled and model in self._jobs[each].models):
                self._unbind(each)

    def may_load(self, model: str, now: float) -> bool:
        """Whether any replica has a model or may load it."""
        return any(replica.may_have(model, now) for replica in self._replicas.values())

    def loaded(self, model: str, seconds: float) -> None:
        """Hear how long a load took."""
        self._load_s[model] = seconds

    def offer(self, job: PoolJob, now: float) -> Forecast | None:
        """Say when a newcomer would end, as ``forecast``; one that is admitted has its place from now on."""
        self.withdraw(job.id)
        forecast = self.forecast(job, now)
        if forecast is not None and forecast.retry_after_s is None and job.id not in self._jobs:
            self._enter(job)
            self._promised[job.id] = now + PROMISE_S
        return forecast

    def withdraw(self, job_id: str) -> bool:
        """An admitted job does not begin after all; whether it had its place, and had not begun."""
        return job_id in self._promised and self.drop(job_id)

    def forecast(self, job: PoolJob, now: float) -> Forecast | None:
        """Say when a newcomer would end; None where no replica is known."""
        self._forget_promises(now)
        if not self._replicas:
            return None
        entries, arrivals = self._entries(now)
        free_s, ready_s = [now] * len(self._replicas), arrivals.everywhere(job.models)
        entry = Entry(job.deadline_s, self._count, job.deadline_s, job.seconds, None, ready_s)
        lane = job.lane(entry.number)
        verdict = self._admission.offer(lane, entry, entries, {}, free_s, now)  # nobody else could have to go for it
        if verdict.is_admitted:
            return Forecast(verdict.eta_s, verdict.place)
        place = bisect_left(self._order, entry[:2])
        ends_s = list_schedule([*entries[:place], entry], free_s, stops=False).ends_s
        return Forecast(ends_s[place], place, verdict.retry_after_s)

    def add(self, job: PoolJob, now: float) -> list[tuple[str, str]]:
        """Take a job; return the jobs that are bound now, each with its replica."""
        self.take(job, now)
        return self.bind(now)

    def take(self, job: PoolJob, now: float, replica: str = "") -> None:
        """Take a job that is bound later, or that somebody has placed on a replica before."""
        self.withdraw(job.id)
        if job.id not in self._jobs:
            self._enter(job)
            if replica in self._replicas:
                self._bind(job.id, replica, now)

    def end(self, job_id: str, now: float) -> list[tuple[str, str]]:
        """A job has ended, however; return the jobs that are bound now, each with its replica."""
        return self.bind(now) if self.drop(job_id) else []

    def drop(self, job_id: str) -> bool:
        """A job has ended, and what has room now is bound later; whether it was known."""
        if job_id not in self._jobs:
            return False
        del self._order[bisect_left(self._order, self._turn(job_id))]
        del self._jobs[job_id], self._numbers[job_id]
        self._promised.pop(job_id, None)
        self._settled.discard(job_id)
        self._unbind(job_id)
        return True

    def progressed(self, job_id: str, left_s: float) -> None:
        """Hear how many seconds a job still takes."""
        job = self._jobs.get(job_id)
        if job is not None and job_id not in self._promised:
            self._settled.add(job_id)
            self._jobs[job_id] = replace(job, seconds=max(0.0, min(job.seconds, left_s)))

    def replica_of(self, job_id: str) -> str | None:
        """Return the replica a job is bound to; None while it waits."""
        return self._bound.get(job_id)

    def bind(self, now: float) -> list[tuple[str, str]]:
        """Bind the jobs whose replica has room; return them, each with its replica."""
        self._forget_promises(now)
        if not self.waiting or not self._replicas:
            return []
        bound = list(self._with_room(now))
        for job_id, name in bound:
            self._bind(job_id, name, now)
        return bound

    def _with_room(self, now: float) -> Iterator[tuple[str, str]]:
        """The jobs that are to be bound, in the order of their turns, until no later one could find room."""
        names, arrivals = list(self._replicas), self._members.arrivals(self._load_s, now)
        slot_of, slots = {name: slot for slot, name in enumerate(names)}, Slots([now] * len(names))
        held = [len(replica.jobs) for replica in self._replicas.values()]
        free_s, ahead, latest_s = slots.free_s, self._rule.ahead, now + self._rule.ahead_s
        for _, _, job_id in self._order:
            job, name = self._jobs[job_id], self._bound.get(job_id)
            if name is None:
                ready_s = arrivals.everywhere(job.models)
                slot = slots.soonest(ready_s)
                if ready_s is not None:
                    free_s[slot] = max(free_s[slot], ready_s[slot])
                if job_id in self._promised:
                    pass  # it takes its seconds, and is bound once it begins
                elif held[slot] < ahead or free_s[slot] <= latest_s:
                    held[slot] += 1
                    yield job_id, names[slot]
                elif free_s[slots.soonest()] > latest_s and min(held) >= ahead:
                    return
            else:
                slot = slot_of[name]
            free_s[slot] += job.seconds

    def steal(self, now: float) -> list[Steal]:
        """Have replicas without work take jobs that others have not begun; return those that move.

        As many of them as there are promises are left to these.
        """
        moved: list[Steal] = []
        for name in [name for name, replica in self._replicas.items() if not replica.jobs][len(self._promised) :]:
            best = self._best_to_take(name, now)
            if best is not None:
                moved.append(best)
                self._unbind(best.job)
                self._bind(best.job, name, now)
                self._settled.add(best.job)
        return moved

    def _best_to_take(self, name: str, now: float) -> Steal | None:
        """The most urgent job that a replica would end sooner by enough than the one which has it among others."""
        if all(len(replica.jobs) < 2 for replica in self._replicas.values()):
            return None
        arrivals, ends_s = self._members.arrivals(self._load_s, now), dict.fromkeys(self._replicas, now)
        for _, _, job_id in self._order:
            job, before = self._jobs[job_id], self._bound.get(job_id)
            if before is None:
                continue
            ends_s[before] += job.seconds
            if job_id in self._settled or len(self._replicas[before].jobs) < 2:
                continue
            sooner_s = ends_s[before] - (arrivals.at(self._replicas[name], job.models) + job.seconds)
            if sooner_s > self._rule.move_s:
                return Steal(job_id, before, name, sooner_s)
        return None

    def _bind(self, job_id: str, name: str, now: float) -> None:
        replica, job = self._replicas[name], self._jobs[job_id]
        replica.jobs.add(job_id)
        self._bound[job_id] = name
        replica.bring(job.models, self._load_s, now)

    def _unbind(self, job_id: str) -> None:
        name = self._bound.pop(job_id, None)
        if name in self._replicas:
            self._replicas[name].jobs.discard(job_id)

    def _unplace(self, jobs: Iterable[str]) -> None:
        for job_id in jobs:
            del self._bound[job_id]

    def _enter(self, job: PoolJob) -> None:
        self._jobs[job.id], self._numbers[job.id] = job, self._count
        insort(self._order, self._turn(job.id))
        self._count += 1

    def _forget_promises(self, now: float) -> None:
        for job_id in [each for each, until_s in self._promised.items() if now > until_s]:
            self.drop(job_id)

    def _turn(self, job_id: str) -> tuple[float, int, str]:
        return self._jobs[job_id].deadline_s, self._numbers[job_id], job_id

    def _entries(self, now: float) -> tuple[list[Entry], Arrivals]:
        """All jobs in order; what a replica runs is among them, so that each is free now."""
        arrivals = self._members.arrivals(self._load_s, now)
        slot_of = {name: slot for slot, name in enumerate(self._replicas)}
        entries = []
        for deadline_s, number, job_id in self._order:
            job, name = self._jobs[job_id], self._bound.get(job_id)
            if name is None:
                ready_s = arrivals.everywhere(job.models)
                entries.append(Entry(deadline_s, number, deadline_s, job.seconds, None, ready_s))
            else:
                entries.append(Entry(deadline_s, number, deadline_s, job.seconds, slot_of[name], None))
        return entries, arrivals
