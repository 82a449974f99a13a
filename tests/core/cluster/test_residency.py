"""Which models are where."""

from lego_serve.core.cluster.demand import Demand, OfferedLoad
from lego_serve.core.cluster.residency import Residency, ResidencyRule
from lego_serve.core.cluster.schedule import Entry
from lego_serve.core.cluster.state import Job, Lane, Worker
from tests.support.cluster.settings import small_costs, small_work

COSTS = small_costs()


def worker(number: int, models: str, memory: int = 22) -> Worker:
    """A worker that holds models of one letter each."""
    made = Worker(number, memory, set(models))
    made.reserved_bytes = COSTS.size_bytes(models)
    return made


def plan(workers: list[Worker], kind: str, deadline_s: float, free_s: list[float]) -> list[tuple[int, tuple[str, ...]]]:
    """The loads for one waiting job."""
    residency = Residency(ResidencyRule(), COSTS, {each.id: each for each in workers})
    job = Job(1, small_work(kind, costs=COSTS), 0.0, deadline_s)
    ready = residency.ready_s(job.work.models, 0.0)
    entry = Entry(deadline_s, 1, deadline_s, job.work.paired_s, None, ready)
    loads = residency.plan([entry], free_s, {1: Lane.of(job)}, 0.0)
    return [(each.id, models) for each, models, _, _ in loads]


def test_a_job_waits_for_its_models_if_that_is_in_time() -> None:
    """Its worker is busy for 2 s; with ten seconds to go nobody else loads them."""
    assert plan([worker(0, "aed"), worker(1, "bed")], "a", 10.0, [2.0, 0.0]) == []


def test_another_worker_loads_them_if_waiting_is_too_late() -> None:
    """With 2.5 s to go the idle one does, which takes 1 s."""
    assert plan([worker(0, "aed"), worker(1, "bed")], "a", 2.5, [2.0, 0.0]) == [(1, ("a",))]


def test_models_are_loaded_as_a_set() -> None:
    """An empty worker gets the backbone with encoder and decoder."""
    assert plan([worker(0, "")], "c", 10.0, [0.0]) == [(0, ("c", "d", "e"))]


def test_what_a_lane_needs_is_not_freed() -> None:
    """A worker whose two backbones both have lanes has no room for a third."""
    full = worker(0, "abed")
    for number, kind in enumerate("ab"):
        lane = Lane.of(Job(number + 5, small_work(kind, costs=COSTS), 0.0, 9.0))
        lane.home = 0
        full.lanes.append(lane)
    assert plan([full], "c", 10.0, [0.0]) == []


def test_the_least_wanted_copy_goes() -> None:
    """Of two backbones that have a further copy, the one that less work asks for is freed."""
    workers = [worker(0, "abed"), worker(1, "abed")]
    residency = Residency(ResidencyRule(hysteresis=1.0), COSTS, {each.id: each for each in workers})
    for kind, seconds in (("a", 5.0), ("b", 1.0), ("c", 3.0)):
        residency.demand.count(small_work(kind, costs=COSTS).models, seconds, 0.0)
    ((loader, models, evict, reason),) = residency.prefetch(0.0)
    assert (loader.id, models, evict) == (0, ("c",), ("b",))
    assert reason


def test_the_only_copy_counts_for_more_than_its_part() -> None:
    """A first copy is worth four times the demand, a second one the demand."""
    demand = Demand(60.0)
    demand.count(frozenset("a"), 2.0, 0.0)
    demand.place([], 0.0)
    assert demand.gain(frozenset("a")) == 8.0
    demand.place([worker(0, "a")], 0.0)
    assert demand.gain(frozenset("a")) == 2.0
    assert demand.losses(worker(0, "a")) == {"a": 8.0}


def test_offered_load_is_work_over_capacity() -> None:
    """Ten seconds of work each second on ten workers come to a load of about 1."""
    load = OfferedLoad()
    for second in range(200):
        load.count(10.0, float(second))
    assert 0.95 < load.share(10, 199.0) < 1.05
