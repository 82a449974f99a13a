"""StepBatcher: which lanes run together, by hand, and how many a step takes, by rows, seconds and deadlines."""

import pytest

from lego_serve.core.costs import Rates, StepWork
from lego_serve.core.scheduling.batching import RELAX_STEPS, StepBatcher, StepLimits
from lego_serve.core.scheduling.lane import Lane
from lego_serve.core.scheduling.ordering import fifo, least_slack
from tests.support.engine.batched_lanes import STEP_S, batcher_of, lane, plan_of


def test_lanes_share_a_step_for_as_long_as_they_fit() -> None:
    """A plan takes lanes in order up to the budget of rows."""
    batcher = batcher_of(fifo, 25)
    for key in "abc":
        batcher.add(lane(key))
    assert batcher.plan(0.0) == plan_of(("a", "b"), (0, 0), 20)


def test_what_lanes_share_is_counted_once_and_not_where_it_is_kept() -> None:
    """It counts against the limits as well, and for whoever of them runs; a paused lane brings nothing."""
    fill = {"x": StepWork(30, 30)}
    batcher = batcher_of(fifo, 70)
    for key in "abc":
        batcher.add(lane(key, shared=(fill, {})))
    batcher.add(lane("d"))
    assert batcher.plan(0.0) == plan_of(("a", "b", "c", "d"), (0, 0, 0, 0), 70)
    assert batcher.plan(0.0, {"x"}) == plan_of(("a", "b", "c", "d"), (0, 0, 0, 0), 40)
    batcher.pause("a")
    assert batcher.plan(0.0) == plan_of(("b", "c", "d"), (0, 0, 0), 60)
    narrow = batcher_of(fifo, 39)
    narrow.add(lane("d"))
    narrow.add(lane("a", shared=(fill, {})))
    assert narrow.plan(0.0) == plan_of(("d",), (0,), 10)
    assert narrow.plan(0.0, {"x"}) == plan_of(("d", "a"), (0, 0), 20)


def test_planning_changes_nothing() -> None:
    """Two plans in a row are the same."""
    batcher = batcher_of(fifo, 25)
    batcher.add(lane("a"))
    assert batcher.plan(0.0) == batcher.plan(0.0)


def test_a_lane_joins_a_running_batch_at_the_next_step() -> None:
    """A newcomer shares the very next plan, each lane at its own step."""
    batcher = batcher_of(fifo, 25)
    batcher.add(lane("a", steps=3))
    first = batcher.plan(0.0)
    assert first is not None
    batcher.add(lane("b"))
    assert batcher.commit(first, 0.0, STEP_S) == []
    assert batcher.plan(STEP_S) == plan_of(("a", "b"), (1, 0), 20)


def test_a_finished_lane_leaves_with_the_time_it_started() -> None:
    """Commit answers the finished lanes, and they are gone."""
    batcher = batcher_of(fifo, 25)
    batcher.add(lane("a", steps=1))
    plan = batcher.plan(3.0)
    assert plan is not None
    (finished,) = batcher.commit(plan, 3.0, 3.5)
    assert (finished.key, finished.started_s, finished.is_finished) == ("a", 3.0, True)
    assert batcher.lanes == 0
    assert batcher.plan(4.0) is None


def test_a_lane_cancelled_during_its_step_is_passed_over() -> None:
    """Commit neither advances nor finishes a lane that was cancelled after the plan was made."""
    batcher = batcher_of(fifo, 25)
    batcher.add(lane("a", steps=1))
    batcher.add(lane("b", steps=1))
    plan = batcher.plan(0.0)
    assert plan is not None
    assert batcher.cancel("a")
    assert not batcher.cancel("a")
    assert [done.key for done in batcher.commit(plan, 0.0, STEP_S)] == ["b"]


def test_a_plan_counts_once() -> None:
    """Committing a plan a second time advances nothing."""
    batcher = batcher_of(fifo, 25)
    batcher.add(lane("a", steps=3))
    plan = batcher.plan(0.0)
    assert plan is not None
    batcher.commit(plan, 0.0, STEP_S)
    batcher.commit(plan, 0.0, STEP_S)
    after = batcher.plan(0.0)
    assert after is not None
    assert after.steps == (1,)


@pytest.mark.parametrize("bad", [lane("a"), lane("b", steps=0), lane("b", rows=0), lane("b", weight=0.0)])
def test_a_lane_that_makes_no_sense_is_refused(bad: Lane) -> None:
    """A known key, no steps, no rows or no weight is a ValueError."""
    batcher = batcher_of(fifo, 25)
    batcher.add(lane("a"))
    with pytest.raises(ValueError, match=f"lane {bad.key}"):
        batcher.add(bad)


def test_check_finds_a_lane_past_its_end() -> None:
    """A lane whose next step lies outside its steps breaks an invariant."""
    batcher = batcher_of(fifo, 25)
    wrong = lane("a", steps=2)
    batcher.add(wrong)
    wrong.next_step = 2
    with pytest.raises(AssertionError, match="step 2 of 2"):
        batcher.check()


def test_a_newcomer_with_the_least_slack_starts_at_the_next_step() -> None:
    """Among lanes that fill the step, one that is due sooner takes the next one, and the others keep their place."""
    batcher = batcher_of(least_slack, 10)
    batcher.add(lane("patient", steps=3))
    first = batcher.plan(0.0)
    assert first is not None
    batcher.commit(first, 0.0, STEP_S)
    batcher.add(lane("urgent", steps=1, added_s=STEP_S, deadline_s=2.0))
    second = batcher.plan(STEP_S)
    assert second == plan_of(("urgent",), (0,), 10)
    batcher.commit(second, STEP_S, 2 * STEP_S)
    assert batcher.plan(2 * STEP_S) == plan_of(("patient",), (1,), 10)


def test_a_paused_lane_waits_and_goes_on_where_it_stood() -> None:
    """Pausing skips a lane; resuming runs its next step, not its first."""
    batcher = batcher_of(fifo, 100)
    batcher.add(lane("a", steps=3))
    first = batcher.plan(0.0)
    assert first is not None
    batcher.commit(first, 0.0, STEP_S)
    assert batcher.pause("a")
    assert batcher.plan(1.0) is None
    assert batcher.resume("a")
    assert batcher.plan(1.0) == plan_of(("a",), (1,), 10)
    assert not batcher.pause("nobody")


def test_a_suspect_lane_runs_alone_until_it_is_cleared() -> None:
    """A suspect first in order has the step to itself; the innocent behind it share theirs without it."""
    batcher = batcher_of(fifo, 100)
    batcher.add(lane("suspect", steps=3, suspect_until=1))
    batcher.add(lane("a"))
    batcher.add(lane("b"))
    first = batcher.plan(0.0)
    assert first == plan_of(("suspect",), (0,), 10)
    batcher.commit(first, 0.0, STEP_S)
    assert batcher.plan(STEP_S) == plan_of(("suspect", "a", "b"), (1, 0, 0), 30)


def test_a_suspect_lane_behind_others_does_not_join_them() -> None:
    """Until it is first a suspect waits."""
    batcher = batcher_of(fifo, 100)
    batcher.add(lane("a"))
    batcher.add(lane("suspect", suspect_until=2, added_s=1.0))
    batcher.add(lane("b", added_s=2.0))
    assert batcher.plan(3.0) == plan_of(("a", "b"), (0, 0), 20)


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
