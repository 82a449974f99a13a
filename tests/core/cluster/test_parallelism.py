"""How wide a job runs."""

from lego_serve.core.cluster.parallelism import ParallelRule, may_join, split_reason, steps_of
from lego_serve.core.cluster.profiles import CostModel, Pace, Profile
from lego_serve.core.cluster.state import Job, Lane
from lego_serve.core.cluster.work import JobWork, WorkflowShape
from tests.support.cluster.settings import small_costs, small_work

RULE = ParallelRule()
COSTS = small_costs()


def lane(deadline_s: float = 10.0, pair_s: float = 0.19, number: int = 1) -> Lane:
    """A job of ten steps of 0.1 s a branch, and ``pair_s`` for two."""
    costs = CostModel([Profile("m", 0.0, 1, ((1, 0.1), (2, pair_s), (4, 1.6 * pair_s)))])
    return Lane.of(Job(number, JobWork(WorkflowShape("m", "m", 10, 2), costs), 0.0, deadline_s))


def test_a_cheap_split_is_done_with_any_idle_worker() -> None:
    """Twice as fast for little: one idle worker of eight is enough."""
    assert split_reason(RULE, lane(), 1, 8, 0.0) == "a worker is idle"
    assert split_reason(RULE, lane(), 0, 8, 0.0) is None


def test_a_dearer_split_needs_half_of_the_workers_idle() -> None:
    """A pair that takes 1.5 times a branch is split while half of the cluster has nothing to do."""
    assert split_reason(RULE, lane(pair_s=0.15), 1, 8, 0.0) is None
    assert split_reason(RULE, lane(pair_s=0.15), 4, 8, 0.0) == "half of the workers are idle"


def test_a_split_that_wins_nothing_is_for_deadlines_alone() -> None:
    """A pair that takes 1.1 times a branch is split only if its deadline needs it."""
    assert split_reason(RULE, lane(pair_s=0.11), 8, 8, 0.0) is None
    assert split_reason(RULE, lane(1.05, pair_s=0.11), 1, 8, 0.0) == "its deadline needs two workers"


def test_a_batch_must_save_enough_and_make_nobody_late() -> None:
    """Two jobs step in 0.3 s together and in 0.38 apart: worth it with ten seconds to go, not with two."""
    assert may_join(RULE, [lane(number=1)], lane(number=2), 0.0)
    assert not may_join(RULE, [lane(2.0, number=1)], lane(number=2), 0.0)
    assert not may_join(ParallelRule(min_saving=0.5), [lane(number=1)], lane(number=2), 0.0)


def test_only_jobs_of_one_backbone_share_a_batch() -> None:
    """Other weights cannot."""
    first, second = (Lane.of(Job(n, small_work(kind, costs=COSTS), 0.0, 99.0)) for n, kind in enumerate("ab"))
    assert not may_join(RULE, [first], second, 0.0)


def test_a_call_takes_about_a_quantum() -> None:
    """Of 0.2 s: ten steps of 0.02 s, one of 0.5, and never more than are left."""
    assert steps_of(RULE, [lane()], 0.02) == 10
    assert steps_of(RULE, [lane()], 0.5) == 1
    assert steps_of(RULE, [lane()], 0.001) == 10


def test_what_estimates_miss_is_kept_free() -> None:
    """Nothing while they hold; more the more they stray, and for more calls."""
    pace = Pace()
    for _ in range(50):
        pace.ended(1.0, 1.0)
    assert pace.padding_s(5) == 0.0
    for number in range(200):
        pace.ended(1.0, 1.1 if number % 2 else 0.9)
    assert 0.2 < pace.padding_s(5) < pace.padding_s(20)
