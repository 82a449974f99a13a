"""The brain of a cell of at most a few dozen workers: hears events, answers decisions, knows no clock and no machine.

It owns what is believed of jobs and workers, asks :class:`Admission` about each newcomer, lets the
:class:`Dispatcher` fill idle workers, and :class:`Residency` say what to load.  The simulator and a server drive the
same object.  Laws: each job that is offered ends in exactly one of ``Rejected``, ``Shed``, ``Finished`` and a
``Cancelled`` that was heard; an event about what is gone changes nothing.
"""

from bisect import insort
from dataclasses import dataclass, field

from lego_serve.core.cluster.admission import Admission, AdmissionRule
from lego_serve.core.cluster.demand import OfferedLoad
from lego_serve.core.cluster.dispatch import Dispatcher, DispatchRule, urgency
from lego_serve.core.cluster.events import (
    Admitted,
    CallEnded,
    Cancelled,
    Decision,
    Event,
    Finished,
    Load,
    Loaded,
    Offered,
    Rejected,
    Run,
    Shed,
    WorkerJoined,
    WorkerLeft,
)
from lego_serve.core.cluster.pace import Pace
from lego_serve.core.cluster.parallelism import may_be_split
from lego_serve.core.cluster.profiles import CostModel
from lego_serve.core.cluster.residency import Residency, ResidencyRule
from lego_serve.core.cluster.routing import CellView
from lego_serve.core.cluster.schedule import LATE_S, Entry, Split, list_schedule
from lego_serve.core.cluster.state import Call, Job, Lane, Worker, batch_left_s


@dataclass(frozen=True, slots=True)
class CellRule:
    """The rules of all parts."""

    admission: AdmissionRule = field(default_factory=AdmissionRule)
    dispatch: DispatchRule = field(default_factory=DispatchRule)
    residency: ResidencyRule = field(default_factory=ResidencyRule)


class Cell:
    """Events in, decisions out."""

    def __init__(self, costs: CostModel, rule: CellRule = CellRule()) -> None:
        self._costs = costs
        self._rule = rule
        self._load = OfferedLoad()
        self._ready: dict[frozenset[str], list[float] | None] = {}
        self._pace = Pace()
        self._began_s: dict[int, float] = {}
        self.workers: dict[int, Worker] = {}
        self.lanes: dict[int, Lane] = {}  # admitted and not ended, by the job's id
        self.waiting: list[Lane] = []  # not started, in order of their deadlines
        self._entries: list[Entry] = []  # of the waiting ones, in the same order
        self._calls: dict[int, Call] = {}
        self._is_planned = True  # whether loads have been thought of since jobs, models or workers changed
        self.admission = Admission(rule.admission)
        self._padding_s = rule.admission.padding_s
        self._dispatcher = Dispatcher(rule.dispatch, self.workers, self.waiting, self.is_kept, costs.move_s)
        self._residency = Residency(rule.residency, costs, self.workers)

    def handle(self, event: Event, now: float) -> list[Decision]:
        """Return what is to be done, in order."""
        match event:
            case Offered(job):
                decisions = self._offer(job, now)
            case CallEnded(call_id):
                decisions = self._call_ended(call_id, now)
            case Loaded(worker, models):
                decisions = self._loaded(worker, models)
            case Cancelled(job_id):
                decisions = self._cancel(job_id)
            case WorkerJoined(worker, memory_bytes, resident):
                self.workers[worker] = Worker(worker, memory_bytes, set(resident))
                self.workers[worker].reserved_bytes = self._costs.size_bytes(resident)
                decisions = []
            case WorkerLeft(worker):
                decisions = self._worker_left(worker)
        if not isinstance(event, CallEnded) or decisions:
            self._is_planned = False
        return decisions + self._fill(now)

    def _offer(self, job: Job, now: float) -> list[Decision]:
        lane = Lane.of(job)
        self._residency.demand.count(job.work.models, job.work.paired_s, now)
        if now + job.work.critical_s > job.deadline_s + LATE_S and not self.admission.rule.admits_all:
            self.admission.shares.count(job.group, 0.0)
            return [Rejected(job, 0.0, f"it takes {job.work.critical_s:.2f} s at the least")]
        if not self.workers:
            return [Rejected(job, 1.0, "there is no worker")]
        self._load.count(job.work.paired_s, now)
        parallel = self._rule.dispatch.parallel
        lane.may_split = may_be_split(parallel, job.work) and self._load.share(len(self.workers), now) < parallel.spare
        entries, free_s = self.schedule(now)
        entry = self._entry(lane, now)
        verdict = self.admission.offer(lane, entry, entries, self.lanes, free_s, now)
        self.admission.shares.count(job.group, 1.0 if verdict.is_admitted else 0.0)
        if not verdict.is_admitted:
            self._residency.missed(job.work.models)
            return [Rejected(job, verdict.retry_after_s, verdict.reason)]
        decisions: list[Decision] = [self._give_up(each, f"for job {job.id}") for each in verdict.shed]
        self.lanes[job.id] = lane
        insort(self.waiting, lane, key=lambda each: (each.job.deadline_s, each.job.id))
        return [*decisions, Admitted(job, verdict.eta_s, verdict.place, verdict.reason)]

    def _give_up(self, lane: Lane, reason: str) -> Shed:
        self._forget(lane)
        self.admission.shares.lose(lane.job.group)
        return Shed(lane.job, reason)

    def _forget(self, lane: Lane) -> None:
        """Take a lane out of everything; a call that runs it goes on for the others in it."""
        del self.lanes[lane.job.id]
        if lane.home is None:
            self.waiting.remove(lane)
        elif lane.home in self.workers:
            self.workers[lane.home].lanes.remove(lane)

    def view(self, now: float) -> CellView:
        """What the cell reports to gateways."""
        work_s = sum(lane.left_s for lane in self.lanes.values())
        work_s += sum(worker.free_s(now) - now for worker in self.workers.values())
        resident = frozenset().union(*(worker.resident for worker in self.workers.values()))
        return CellView(len(self.workers), work_s, resident, now)

    def schedule(self, now: float) -> tuple[list[Entry], list[float]]:
        """The entries of all lanes in the order of their turn, and when each worker's call is over."""
        self._ready.clear()
        workers = list(self.workers.values())
        free_s = [worker.free_s(now) for worker in workers]
        bound: list[Entry] = []
        for slot, worker in enumerate(workers):
            if worker.lanes:
                bound.extend(self._bound(worker, slot, free_s[slot], now))
        waiting = [self._entry(lane, now) for lane in self.waiting]
        bound.sort()
        if bound and waiting and bound[-1][:2] > waiting[0][:2]:
            return sorted([*bound, *waiting], key=lambda each: each[:2]), free_s
        return [*bound, *waiting], free_s

    def is_kept(self, worker: Worker, batch: list[Lane], now: float) -> bool:
        """Whether all that is in flight ends in time if a worker runs these lanes as one batch from now on."""
        entries, free_s = self.schedule(now)
        slot = next(index for index, each in enumerate(self.workers.values()) if each is worker)
        ids = {lane.job.id for lane in batch}
        free_s[slot] = now + batch_left_s(batch)
        rest = [entry for entry in entries if entry.number not in ids]
        return list_schedule(rest, free_s).late is None

    def _bound(self, worker: Worker, slot: int, free_s: float, now: float) -> list[Entry]:
        lanes = worker.lanes
        if len(lanes) == 1:
            lane = lanes[0]
            key = urgency(lane, free_s)
            split = _split(lane)
            ready_s = None if split is None else self._ready_s(lane.job.work.models, now)
            return [Entry(key, lane.job.id, lane.job.deadline_s, lane.left_s, slot, ready_s, split)]
        together = worker.call.lanes if worker.call is not None else ()
        entries, before_s = [], 0.0
        batch = sorted((each for each in lanes if each in together), key=lambda each: each.steps_left)
        for count, lane in enumerate(batch, start=1):
            ends_s = batch_left_s(batch[:count]) if len(batch) > 1 else lane.left_s
            key = urgency(lane, free_s)
            entries.append(Entry(key, lane.job.id, lane.job.deadline_s, ends_s - before_s, slot, None))
            before_s = ends_s
        for lane in lanes:
            if lane not in batch:
                key = urgency(lane, free_s)
                entries.append(Entry(key, lane.job.id, lane.job.deadline_s, lane.left_s, slot, None))
        return entries

    def _ready_s(self, models: frozenset[str], now: float) -> list[float] | None:
        """When each worker could have the models; the same for all entries of one schedule."""
        if models not in self._ready:
            self._ready[models] = self._residency.ready_s(models, now)
        return self._ready[models]

    def _entry(self, lane: Lane, now: float) -> Entry:
        job = lane.job
        ready_s = self._ready_s(job.work.models, now)
        deadline_s = job.deadline_s - self._padding_s - self._pace.padding_s(lane.steps_left + 1)
        return Entry(job.deadline_s, job.id, deadline_s, lane.left_s, None, ready_s, _split(lane))

    def _call_ended(self, call_id: int, now: float) -> list[Decision]:
        call = self._calls.pop(call_id, None)
        if call is None:
            return []
        self._pace.ended(call.seconds, now - self._began_s.pop(call_id, now - call.seconds))
        for number in call.workers:
            worker = self.workers.get(number)
            if worker is not None and worker.call is call:
                worker.call = None
        decisions: list[Decision] = []
        for lane in call.lanes:
            lane.call = None
            if lane in call.decodes and self.lanes.get(lane.job.id) is lane:
                self._forget(lane)
                decisions.append(Finished(lane.job))
        return decisions

    def _loaded(self, number: int, models: frozenset[str]) -> list[Decision]:
        worker = self.workers.get(number)
        if worker is not None:
            for model in models:
                if worker.loading.pop(model, None) is not None:
                    worker.resident.add(model)
            worker.sets.clear()
        return []

    def _cancel(self, job_id: int) -> list[Decision]:
        lane = self.lanes.get(job_id)
        if lane is not None:
            self._forget(lane)
        return []

    def _worker_left(self, number: int) -> list[Decision]:
        worker = self.workers.pop(number, None)
        if worker is None:
            return []
        call = worker.call
        if call is not None:
            self._calls.pop(call.id, None)
            self._began_s.pop(call.id, None)
            for other in call.workers:
                if other in self.workers:
                    self.workers[other].call = None
            for lane in call.lanes:  # what the call did is lost; where only the helper is gone, the lane is still there
                lane.call = None
                lane.steps_left += call.steps
                lane.is_encoded = lane not in call.encodes
        for lane in worker.lanes:
            lane.home, lane.call, lane.is_encoded = None, None, False
            lane.steps_left = lane.job.work.shape.steps
            insort(self.waiting, lane, key=lambda each: (each.job.deadline_s, each.job.id))
        return []

    def _fill(self, now: float) -> list[Decision]:
        decisions: list[Decision] = []
        if self.waiting and not self.admission.rule.admits_all:
            decisions.extend(self._hopeless(now))
        for call, reason in self._dispatcher.fill(now):
            self._calls[call.id] = call
            self._began_s[call.id] = now
            decisions.append(Run(call, reason))
        decisions.extend(self._loads(now))
        return decisions

    def _hopeless(self, now: float) -> list[Decision]:
        """Give up those at the head that can end in time no more: the estimates were wrong, or a worker is gone."""
        gone = []
        for lane in self.waiting:
            if now + lane.least_left_s <= lane.job.deadline_s + LATE_S:
                break
            gone.append(lane)
        return [self._give_up(lane, "it cannot end in time any more") for lane in gone]

    def _loads(self, now: float) -> list[Decision]:
        is_due = self._residency.is_due(now)
        if self._is_planned and not is_due:
            return []
        self._is_planned = True
        entries, free_s = self.schedule(now) if self.waiting else ([], [])
        loads = list(self._residency.plan(entries, free_s, self.lanes, now))
        if is_due:
            loads.extend(self._residency.prefetch(now))
        return [Load(worker.id, models, evict, reason) for worker, models, evict, reason in loads]


def _split(lane: Lane) -> Split | None:
    if not lane.may_split:
        return None
    work = lane.job.work
    encode_s = 0.0 if lane.is_encoded else work.encode_s
    return Split(encode_s, lane.steps_left, work.step_s, work.split_step_s, work.decode_s)
