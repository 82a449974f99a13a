"""The brain of a cell of at most a few dozen workers: hears events, answers decisions, knows no clock and no machine.

It owns what is believed of jobs and workers, asks :class:`Admission` about each newcomer, lets the
:class:`Dispatcher` fill idle workers, and :class:`Residency` say what to load.  The simulator and a server drive the
same object.  Laws: each job that is offered ends in exactly one of ``Rejected``, ``Shed``, ``Finished`` and a
``Cancelled`` that was heard; an event about what is gone changes nothing.
"""

from dataclasses import dataclass, field

from lego_serve.core.cluster.admission import Admission, AdmissionRule, Verdict
from lego_serve.core.cluster.demand import OfferedLoad
from lego_serve.core.cluster.dispatch import Dispatcher, DispatchRule
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
from lego_serve.core.cluster.outlook import Outlook
from lego_serve.core.cluster.parallelism import may_be_split
from lego_serve.core.cluster.profiles import CostModel
from lego_serve.core.cluster.residency import Residency, ResidencyRule
from lego_serve.core.cluster.routing import CellView
from lego_serve.core.cluster.schedule import LATE_S, WaitingList
from lego_serve.core.cluster.state import Call, Job, Lane, Worker


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
        self._began_s: dict[int, float] = {}
        self.workers: dict[int, Worker] = {}
        self.lanes: dict[int, Lane] = {}  # admitted and not ended, by the job's id
        self.waiting = WaitingList()
        self._calls: dict[int, Call] = {}
        self._is_planned = True  # whether loads have been thought of since jobs, models or workers changed
        self.admission = Admission(rule.admission)
        self._residency = Residency(rule.residency, costs, self.workers)
        self._outlook = Outlook(self.workers, self.waiting, self._residency, rule.admission.padding_s)
        is_kept = self._outlook.is_kept
        self._dispatcher = Dispatcher(rule.dispatch, self.workers, self.waiting, is_kept, costs.move_s)

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
                decisions = self._worker_left(worker)  # one that was known has started anew
                self.workers[worker] = Worker(worker, memory_bytes, set(resident))
                self.workers[worker].reserved_bytes = self._costs.size_bytes(resident)
                self._residency.changed(self.workers[worker])
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
        eta_s = self._outlook.quick_end_s(lane, now)
        if eta_s is not None:
            verdict = Verdict(True, (), eta_s, self.waiting.place(job), 0.0, "all in flight end in time")
        else:
            entries, free_s = self._outlook.schedule(now)
            verdict = self.admission.offer(lane, self._outlook.entry(lane, now), entries, self.lanes, free_s, now)
        self.admission.shares.count(job.group, 1.0 if verdict.is_admitted else 0.0)
        if not verdict.is_admitted:
            self._residency.missed(job.work.models)
            return [Rejected(job, verdict.retry_after_s, verdict.reason)]
        decisions: list[Decision] = [self._give_up(each, f"for job {job.id}") for each in verdict.shed]
        self.lanes[job.id] = lane
        self.waiting.add(lane)
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

    def _call_ended(self, call_id: int, now: float) -> list[Decision]:
        call = self._calls.pop(call_id, None)
        if call is None:
            return []
        self._outlook.pace.ended(call.seconds, now - self._began_s.pop(call_id, now - call.seconds))
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
            self._residency.changed(worker)
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
        self._residency.changed(worker)
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
            self.waiting.add(lane)
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
        if self._residency.are_everywhere(self.waiting.sets):
            loads = self._residency.nothing_to_plan(self.waiting.sets)
        else:
            loads = list(self._residency.plan(*self._outlook.schedule(now), self.lanes, now))
        if is_due:
            loads.extend(self._residency.prefetch(now))
        return [Load(worker.id, models, evict, reason) for worker, models, evict, reason in loads]
