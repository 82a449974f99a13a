"""StepBatcher: how many lanes a step takes, by rows, seconds and deadlines."""

import pytest

from lego_serve.core.costs import Rates
from lego_serve.core.scheduling.batching import RELAX_STEPS, StepBatcher, StepLimits
from lego_serve.core.scheduling.ordering import fifo, least_slack
from tests.support.engine.batched_lanes import batcher_of, lane, plan_of


def test_a_lane_over_the_budget_runs_alone() -> None:
    """A lane with more rows than the budget is not refused: it has the step to itself."""
    batcher = batcher_of(fifo, 5)
    batcher.add(lane("big", rows=50))
    batcher.add(lane("small", rows=1))
    assert batcher.plan(0.0) == plan_of(("big",), (0,), 50)


def test_small_lanes_do_not_overtake_a_large_one() -> None:
    """A plan ends at the first lane that does not fit, though a later one would."""
    batcher = batcher_of(fifo, 25)
    for key, rows in (("a", 10), ("large", 20), ("small", 5)):
        batcher.add(lane(key, rows=rows))
    plan = batcher.plan(0.0)
    assert plan is not None
    assert plan.keys == ("a",)


def test_a_step_is_bounded_by_its_predicted_seconds() -> None:
    """Lanes join for as long as the rates promise that the step keeps to its limit."""
    batcher = StepBatcher(fifo, StepLimits(max_step_s=0.025), Rates(row_s=1e-3, constant_s=4e-3))
    for key in "abc":
        batcher.add(lane(key, rows=10))
    plan = batcher.plan(0.0)
    assert plan is not None
    assert plan.keys == ("a", "b")


def test_without_a_limit_a_step_takes_as_long_as_it_pays() -> None:
    """A large constant is shared by many lanes; at least a fixed number of rows runs in any case."""
    rates = Rates(row_s=1e-5, constant_s=25e-3)
    assert StepLimits().seconds(rates) == pytest.approx(0.25)
    assert StepLimits().seconds(Rates(row_s=1e-5)) == pytest.approx(1024e-5)


def test_nobody_joins_a_step_that_would_make_a_lane_in_it_late() -> None:
    """Ten steps in 50 ms leave 5 ms each: no room for a lane that makes them take 8, but for one that makes it 4."""
    batcher = StepBatcher(least_slack, StepLimits(max_step_s=1.0), Rates(row_s=1e-3))
    batcher.add(lane("urgent", rows=2, steps=10, deadline_s=0.05))
    batcher.add(lane("large", rows=6, steps=10, deadline_s=9.0))
    assert batcher.plan(0.0) == plan_of(("urgent",), (0,), 2)
    batcher.cancel("large")
    batcher.add(lane("small", rows=2, steps=10, deadline_s=9.0))
    assert batcher.plan(0.0) == plan_of(("urgent", "small"), (0, 0), 4)


def test_a_lane_that_is_late_in_any_case_holds_up_nobody() -> None:
    """Its pace could not be kept even alone, so that it says nothing about the step."""
    batcher = StepBatcher(fifo, StepLimits(max_step_s=1.0), Rates(row_s=1e-3))
    batcher.add(lane("late", rows=2, steps=10, deadline_s=0.01))
    batcher.add(lane("large", rows=6, steps=10))
    assert batcher.plan(0.0) == plan_of(("late", "large"), (0, 0), 8)


def test_a_limit_found_the_hard_way_holds() -> None:
    """After memory ran out, no step of several lanes has more rows than the limit."""
    batcher = batcher_of(fifo, 100)
    for key in "abcd":
        batcher.add(lane(key))
    batcher.limit_rows(20)
    plan = batcher.plan(0.0)
    assert plan is not None
    assert plan.keys == ("a", "b")


def test_such_a_limit_is_tried_again_in_time() -> None:
    """Somebody else may have had the memory; a limit of the configuration stays."""
    batcher = batcher_of(fifo, 60)
    for key in "abcdefgh":
        batcher.add(lane(key, 10 * RELAX_STEPS))
    batcher.limit_rows(20)
    widths = []
    for step in range(8 * RELAX_STEPS):
        plan = batcher.plan(float(step))
        assert plan is not None
        widths.append(len(plan.keys))
        batcher.commit(plan, float(step), float(step))
    assert widths[0] == widths[RELAX_STEPS - 1] == 2
    assert widths == sorted(widths)
    assert widths[-1] == 6
