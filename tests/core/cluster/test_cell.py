"""The brain of a cell, under any order of events."""

from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.cluster.admission import AdmissionRule
from lego_serve.core.cluster.cell import Cell, CellRule
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
from lego_serve.core.cluster.state import Call, Job
from tests.support.cluster.settings import small_costs, small_work

MEMORY = 22  # two of the backbones, the encoder and the decoder hold 10, 10, 1 and 1 bytes
COSTS = small_costs()
RULES = (
    CellRule(),
    CellRule(AdmissionRule(sheds_started=True, floors={"*": 0.75})),
    CellRule(AdmissionRule(admits_all=True)),
    CellRule(AdmissionRule(tenant_weights={"t0": 2.0, "t1": 1.0})),
)
STEPS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 99), st.floats(-0.2, 1.5)), max_size=60)


class Ledger:
    """Follows a cell's decisions as a server would, and holds them against the laws."""

    def __init__(self, rule: CellRule, workers: int) -> None:
        self.cell = Cell(COSTS, rule)
        self.now = 0.0
        self.calls: dict[int, Call] = {}
        self.loads: list[Load] = []
        self.open: set[int] = set()
        self.ended: dict[int, str] = {}
        self.alive: set[int] = set()
        for number in range(workers):
            self.tell(WorkerJoined(number, MEMORY, frozenset("aed") if number % 2 else frozenset()))
            self.alive.add(number)

    def tell(self, event: Event) -> None:
        """Tell the cell of an event and follow its decisions."""
        for decision in self.cell.handle(event, self.now):
            self.follow(decision)
        self.check()

    def follow(self, decision: Decision) -> None:
        """Do what a decision says."""
        match decision:
            case Admitted(job):
                assert job.id not in self.ended
            case Rejected(job, retry_after_s):
                assert retry_after_s >= 0.0
                self.end(job, "rejected")
            case Shed(job):
                self.end(job, "shed")
            case Finished(job):
                self.end(job, "finished")
            case Run(call):
                busy = {worker for each in self.calls.values() for worker in each.workers}
                assert not busy & set(call.workers), "a worker runs one call at a time"
                running = {lane.job.id for each in self.calls.values() for lane in each.lanes}
                assert not running & {lane.job.id for lane in call.lanes}, "a lane is in one call at a time"
                for number in call.workers[:1]:
                    assert call.models <= self.cell.workers[number].resident
                self.calls[call.id] = call
            case Load():
                self.loads.append(decision)
                needed = {m for call in self.calls.values() if decision.worker in call.workers for m in call.models}
                assert not needed & set(decision.evict), "what runs is not freed"

    def end(self, job: Job, how: str) -> None:
        """A job has ended, for the first time."""
        assert job.id in self.open
        assert job.id not in self.ended
        self.open.discard(job.id)
        self.ended[job.id] = how

    def check(self) -> None:
        """No worker holds more than it can; what is open is what the cell knows."""
        for worker in self.cell.workers.values():
            held = COSTS.size_bytes(worker.resident | worker.loading.keys())
            assert held == worker.reserved_bytes <= worker.memory_bytes
        assert set(self.cell.lanes) == self.open

    def offer(self, number: int, slack_s: float, kind: str) -> None:
        """Offer a job."""
        work = small_work(kind, costs=COSTS)
        self.open.add(number)
        deadline_s = self.now + work.paired_s + slack_s
        self.tell(Offered(Job(number, work, self.now, deadline_s, kind, f"t{number % 2}")))

    def end_call(self, index: int) -> None:
        """Let one of the calls end."""
        if self.calls:
            call = self.calls.pop(sorted(self.calls)[index % len(self.calls)])
            self.tell(CallEnded(call.id))

    def end_load(self) -> None:
        """Let the oldest load end."""
        if self.loads:
            load = self.loads.pop(0)
            self.tell(Loaded(load.worker, frozenset(load.models)))

    def lose_worker(self, index: int) -> None:
        """Lose a worker and what it ran; another one comes."""
        if not self.alive:
            return
        number = sorted(self.alive)[index % len(self.alive)]
        self.alive.discard(number)
        self.calls = {key: call for key, call in self.calls.items() if number not in call.workers}
        self.loads = [load for load in self.loads if load.worker != number]
        self.tell(WorkerLeft(number))
        self.alive.add(number + 100)
        self.tell(WorkerJoined(number + 100, MEMORY, frozenset()))


@given(st.sampled_from(RULES), st.integers(1, 4), STEPS)
def test_no_job_is_lost_and_none_made_up(rule: CellRule, workers: int, steps: list[tuple[int, int, float]]) -> None:
    """In any order of offers, ends, losses, cancels and clock jumps each job ends once, and in the end all have."""
    ledger = Ledger(rule, workers)
    for number, (kind, index, seconds) in enumerate(steps):
        ledger.now = max(0.0, ledger.now + seconds)  # clocks may jump back
        if kind <= 4:
            ledger.offer(number, 3.0 * (index % 5), "abc"[index % 3])
        elif kind <= 6:
            ledger.end_call(index)
        elif kind == 7:
            ledger.end_load()
        elif kind == 8:
            ledger.lose_worker(index)
        elif ledger.open:
            job_id = sorted(ledger.open)[index % len(ledger.open)]
            ledger.open.discard(job_id)
            ledger.ended[job_id] = "cancelled"
            ledger.tell(Cancelled(job_id))
    for _ in range(1000):
        if not ledger.calls and not ledger.loads:
            break
        ledger.now += 0.2
        ledger.end_load()
        ledger.end_call(0)
    assert not ledger.open, "nobody starves"


def test_an_event_about_what_is_gone_changes_nothing() -> None:
    """Ends of unknown calls, losses of unknown workers and cancels of unknown jobs are heard and forgotten."""
    cell = Cell(COSTS)
    cell.handle(WorkerJoined(0, MEMORY, frozenset("aed")), 0.0)
    for event in (CallEnded(7), WorkerLeft(9), Cancelled(3), Loaded(9, frozenset("a"))):
        assert cell.handle(event, 1.0) == []


def test_a_refusal_says_when_the_same_job_would_have_fitted() -> None:
    """After the seconds that a refusal names, with nothing else offered, the job is admitted."""
    cell = Cell(COSTS, CellRule(AdmissionRule(sheds_waiting=False)))
    cell.handle(WorkerJoined(0, MEMORY, frozenset("aed")), 0.0)
    work = small_work("a", costs=COSTS)
    told = [each for n in range(4) for each in cell.handle(Offered(Job(n, work, 0.0, 2.0)), 0.0)]
    refused = [each for each in told if isinstance(each, Rejected)]
    assert [each.job.id for each in refused] == [2, 3]
    later = refused[0].retry_after_s
    calls = [each.call for each in told if isinstance(each, Run)]
    while cell.workers[0].until_s <= later:
        told = cell.handle(CallEnded(calls[-1].id), cell.workers[0].until_s)
        calls += [each.call for each in told if isinstance(each, Run)]
    decisions = cell.handle(Offered(Job(9, work, later, later + 2.0)), later)
    assert any(isinstance(each, Admitted) for each in decisions)


def test_what_is_refused_because_nobody_has_its_models_gets_them() -> None:
    """A class that cannot end in time while its models are loaded is refused once and served the next time."""
    cell = Cell(small_costs(load_s=5.0))
    cell.handle(WorkerJoined(0, MEMORY, frozenset("aed")), 0.0)
    work = small_work("b", costs=small_costs(load_s=5.0))
    first = cell.handle(Offered(Job(1, work, 0.0, 2.0)), 0.0)
    assert [type(each) for each in first] == [Rejected, Load]
    cell.handle(Loaded(0, frozenset("b")), 5.0)
    second = cell.handle(Offered(Job(2, work, 6.0, 8.0)), 6.0)
    assert [type(each) for each in second] == [Admitted, Run]
