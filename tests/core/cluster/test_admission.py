"""Who is admitted, and who must go for whom."""

from lego_serve.core.cluster.admission import Admission, AdmissionRule, ClassShares, Verdict
from lego_serve.core.cluster.schedule import Entry
from lego_serve.core.cluster.state import Job, Lane
from tests.support.cluster.settings import small_costs, small_work

COSTS = small_costs()


class Queue:
    """Jobs that wait for one worker, and a decision about one more."""

    def __init__(self, rule: AdmissionRule | None = None) -> None:
        self.admission = Admission(rule or AdmissionRule())
        self.lanes: dict[int, Lane] = {}

    def entry(self, lane: Lane) -> Entry:
        """The entry of a waiting job."""
        return Entry(lane.job.deadline_s, lane.job.id, lane.job.deadline_s, lane.left_s, None, None)

    def offer(self, number: int, deadline_s: float, steps: int = 4, **rest: object) -> Verdict:
        """Offer a job of 0.09 s and 0.19 s a step, and keep account of what follows."""
        lane = Lane.of(Job(number, small_work(steps=steps, costs=COSTS), 0.0, deadline_s, **rest))  # type: ignore[arg-type]
        entries = sorted((self.entry(each) for each in self.lanes.values()), key=lambda each: each[:2])
        verdict = self.admission.offer(lane, self.entry(lane), entries, self.lanes, [0.0], 0.0)
        for gone in verdict.shed:
            del self.lanes[gone.job.id]
        if verdict.is_admitted:
            self.lanes[number] = lane
        return verdict


def test_who_fits_is_admitted_and_told_when_it_ends() -> None:
    """Two jobs of 0.85 s end at 0.85 and 1.7 s."""
    queue = Queue()
    assert round(queue.offer(1, 2.0).eta_s, 3) == 0.85
    second = queue.offer(2, 2.1)
    assert (second.is_admitted, round(second.eta_s, 3), second.place) == (True, 1.7, 1)


def test_the_longest_goes_first() -> None:
    """A long job that waits is given up for two short ones, each of the same value."""
    queue = Queue()
    queue.offer(1, 2.5, steps=10)
    verdict = queue.offer(2, 2.4)
    assert verdict.is_admitted
    assert [lane.job.id for lane in verdict.shed] == [1]


def test_value_weighs_against_length() -> None:
    """The long job stays if it is worth three short ones."""
    queue = Queue()
    queue.offer(1, 2.5, steps=10, value=3.0)
    verdict = queue.offer(2, 2.4)
    assert not verdict.is_admitted
    assert verdict.retry_after_s > 0.0


def test_only_the_newest_goes_where_promises_are_kept() -> None:
    """With ``sheds_waiting`` off a newcomer is refused that an admitted job would have to go for."""
    queue = Queue(AdmissionRule(sheds_waiting=False))
    queue.offer(1, 2.5, steps=10)
    assert not queue.offer(2, 2.4).is_admitted
    assert list(queue.lanes) == [1]


def test_a_class_below_its_floor_is_shed_last() -> None:
    """The long class stays once three quarters of it would no longer be served."""
    queue = Queue(AdmissionRule(floors={"long": 0.75}))
    for _ in range(30):
        queue.admission.shares.count("long", 0.0)
    queue.offer(1, 2.5, steps=10, group="long")
    assert not queue.offer(2, 2.4, group="short").is_admitted


def test_a_tenant_that_holds_more_is_shed_before_another() -> None:
    """Of three equal jobs, one of the tenant that has two goes."""
    queue = Queue(AdmissionRule(tenant_weights={"many": 1.0, "few": 1.0}))
    queue.offer(1, 1.9, tenant="many")
    queue.offer(2, 1.95, tenant="many")
    verdict = queue.offer(3, 1.9, tenant="few")
    assert verdict.is_admitted
    assert {lane.job.tenant for lane in verdict.shed} == {"many"}


def test_who_is_late_anyway_takes_nobody_along() -> None:
    """A job that cannot be in time any more neither keeps others out nor is saved by shedding them."""
    queue = Queue()
    queue.offer(1, 3.0)
    queue.lanes[0] = Lane.of(Job(0, small_work(costs=COSTS), 0.0, 0.1))
    assert queue.offer(2, 3.1).is_admitted


def test_shares_forget() -> None:
    """A class that was refused long ago is no longer protected."""
    shares = ClassShares({"*": 0.75})
    for _ in range(50):
        shares.count("a", 0.0)
    assert shares.is_protected("a")
    for _ in range(200):
        shares.count("a", 1.0)
    assert not shares.is_protected("a")
