"""The work of jobs."""

import pytest

from lego_serve.core.cluster.state import Job, Lane, batch_left_s
from lego_serve.core.cluster.work import WorkflowShape, batch_step_s
from tests.support.cluster.settings import artifact, small_costs, small_work

COSTS = small_costs()


def test_the_artifact_s_sums_are_near_its_measured_latencies() -> None:
    """Within 1 % of 1.987 and 2.069 s, which its authors measured."""
    setting = artifact()
    assert setting.work("A").solo_s == pytest.approx(1.987, rel=0.01)
    assert setting.work("B").solo_s == pytest.approx(2.069, rel=0.01)


def test_a_pair_saves_work_and_a_split_saves_time() -> None:
    """On one worker 0.85 s, apart 0.93, with a second one 0.49."""
    work = small_work(costs=COSTS)
    assert work.paired_s == pytest.approx(0.04 + 4 * 0.19 + 0.05)
    assert work.solo_s == pytest.approx(0.04 + 4 * 0.2 + 0.05)
    assert work.critical_s == pytest.approx(0.04 + 4 * 0.1 + 0.05)


def test_a_batch_of_two_jobs_shares_steps() -> None:
    """Two jobs step in 0.36 s, and the second goes on alone when the first has ended."""
    first, second = small_work(costs=COSTS), small_work(steps=6, costs=COSTS)
    assert batch_step_s([first, second]) == pytest.approx(0.36)
    lanes = [Lane.of(Job(0, first, 0.0, 9.0)), Lane.of(Job(1, second, 0.0, 9.0))]
    assert batch_left_s(lanes) == pytest.approx(2 * (0.04 + 0.05) + 4 * 0.36 + 2 * 0.19)


def test_the_least_work_is_no_more_than_any_batch_takes() -> None:
    """The bound counts each pass at its best batch."""
    work = small_work(costs=COSTS)
    assert work.least_s((1, 2, 4)) <= work.least_s((1, 2)) <= work.least_s((1,)) == pytest.approx(work.solo_s)


def test_a_shape_that_cannot_run_is_refused() -> None:
    """At least one step, one or two branches."""
    with pytest.raises(ValueError, match="0 steps"):
        WorkflowShape("w", "m", 0)
