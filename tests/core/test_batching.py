"""StepBatcher: which lanes run together, by hand and under random arrivals."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lego_serve.core.batching import Lane, StepBatcher, StepPlan
from lego_serve.core.ordering import ORDERS, fifo, least_slack, shortest_remaining

STEP_S = 0.1


def lane(key: str, steps: int = 2, rows: int = 10, added_s: float = 0.0, **more: float) -> Lane:
    return Lane(key, steps, rows, added_s, **more)


def test_lanes_share_a_step_for_as_long_as_they_fit() -> None:
    """A plan takes lanes in order up to the budget of rows."""
    batcher = StepBatcher(fifo, max_rows=25)
    for key in "abc":
        batcher.add(lane(key))
    assert batcher.plan(0.0) == StepPlan(("a", "b"), (0, 0), 20)


def test_planning_changes_nothing() -> None:
    """Two plans in a row are the same."""
    batcher = StepBatcher(fifo, max_rows=25)
    batcher.add(lane("a"))
    assert batcher.plan(0.0) == batcher.plan(0.0)


def test_a_lane_over_the_budget_runs_alone() -> None:
    """A lane with more rows than the budget is not refused: it has the step to itself."""
    batcher = StepBatcher(fifo, max_rows=5)
    batcher.add(lane("big", rows=50))
    batcher.add(lane("small", rows=1))
    assert batcher.plan(0.0) == StepPlan(("big",), (0,), 50)


def test_small_lanes_do_not_overtake_a_large_one() -> None:
    """A plan ends at the first lane that does not fit, though a later one would."""
    batcher = StepBatcher(fifo, max_rows=25)
    for key, rows in (("a", 10), ("large", 20), ("small", 5)):
        batcher.add(lane(key, rows=rows))
    plan = batcher.plan(0.0)
    assert plan is not None
    assert plan.keys == ("a",)


def test_a_lane_joins_a_running_batch_at_the_next_step() -> None:
    """A newcomer shares the very next plan, each lane at its own step."""
    batcher = StepBatcher(fifo, max_rows=25)
    batcher.add(lane("a", steps=3))
    first = batcher.plan(0.0)
    assert first is not None
    batcher.add(lane("b"))
    assert batcher.commit(first, 0.0, STEP_S) == []
    assert batcher.plan(STEP_S) == StepPlan(("a", "b"), (1, 0), 20)


def test_a_finished_lane_leaves_with_the_time_it_started() -> None:
    """Commit answers the finished lanes, and they are gone."""
    batcher = StepBatcher(fifo, max_rows=25)
    batcher.add(lane("a", steps=1))
    plan = batcher.plan(3.0)
    assert plan is not None
    (finished,) = batcher.commit(plan, 3.0, 3.5)
    assert (finished.key, finished.started_s, finished.is_finished) == ("a", 3.0, True)
    assert batcher.lanes == 0
    assert batcher.plan(4.0) is None


def test_a_lane_cancelled_during_its_step_is_passed_over() -> None:
    """Commit neither advances nor finishes a lane that was cancelled after the plan was made."""
    batcher = StepBatcher(fifo, max_rows=25)
    batcher.add(lane("a", steps=1))
    batcher.add(lane("b", steps=1))
    plan = batcher.plan(0.0)
    assert plan is not None
    assert batcher.cancel("a")
    assert not batcher.cancel("a")
    assert [done.key for done in batcher.commit(plan, 0.0, STEP_S)] == ["b"]


def test_a_plan_counts_once() -> None:
    """Committing a plan a second time advances nothing."""
    batcher = StepBatcher(fifo, max_rows=25)
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
    batcher = StepBatcher(fifo, max_rows=25)
    batcher.add(lane("a"))
    with pytest.raises(ValueError, match=f"lane {bad.key}"):
        batcher.add(bad)


def test_check_finds_a_lane_past_its_end() -> None:
    """A lane whose next step lies outside its steps breaks an invariant."""
    batcher = StepBatcher(fifo, max_rows=25)
    wrong = lane("a", steps=2)
    batcher.add(wrong)
    wrong.next_step = 2
    with pytest.raises(AssertionError, match="step 2 of 2"):
        batcher.check()


arrivals = st.lists(
    st.tuples(
        st.integers(0, 3),  # steps to wait before it comes
        st.integers(1, 6),  # its steps
        st.integers(1, 40),  # its rows
        st.one_of(st.none(), st.floats(0, 5)),  # seconds to its deadline
        st.floats(0.125, 8),  # its weight
        st.booleans(),  # whether it is cancelled half-way
    ),
    max_size=20,
)


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS.keys())
@settings(max_examples=60, deadline=None)
@given(coming=arrivals, max_rows=st.integers(1, 60))
def test_every_lane_takes_exactly_its_steps(order, coming, max_rows) -> None:  # type: ignore[no-untyped-def]
    """Under any arrivals: steps 0, 1, 2, ... of each lane run once, budgets hold, and all lanes end."""
    batcher, now, ran = StepBatcher(order, max_rows), 0.0, {}
    waiting = [(sum(w for w, *_ in coming[: i + 1]), f"l{i}", *rest) for i, (_, *rest) in enumerate(coming)]
    rows = {key: r for _, key, _, r, *_ in waiting}
    cancelled: set[str] = set()
    finished: set[str] = set()
    for turn in range(sum(steps for _, _, steps, *_ in waiting) + len(coming) * 3 + 1):
        for _, key, steps, many, left, weight, _ in [w for w in waiting if w[0] == turn]:
            batcher.add(Lane(key, steps, many, now, None if left is None else now + left, weight))
            ran[key] = []
        plan = batcher.plan(now)
        if plan is not None:
            assert plan.rows == sum(rows[k] for k in plan.keys)
            assert plan.rows <= max_rows or len(plan.keys) == 1
            for key, step in zip(plan.keys, plan.steps, strict=True):
                ran[key].append(step)
            finished |= {done.key for done in batcher.commit(plan, now, now + STEP_S)}
        for _, key, steps, *_, dropped in waiting:
            if dropped and len(ran.get(key, ())) > steps // 2 and batcher.cancel(key):
                cancelled.add(key)
        batcher.check()
        now += STEP_S
    assert finished | cancelled == {key for _, key, *_ in waiting}
    assert not finished & cancelled
    for _, key, steps, *_ in waiting:
        assert ran[key] == list(range(steps if key in finished else len(ran[key])))


@pytest.mark.parametrize("order", [fifo, least_slack, shortest_remaining])
@settings(max_examples=15, deadline=None)
@given(rivals=st.lists(st.tuples(st.integers(1, 8), st.floats(0, 1), st.floats(0.125, 8)), min_size=1, max_size=6))
def test_nothing_starves(order, rivals) -> None:  # type: ignore[no-untyped-def]
    """A patient lane ends although an urgent, heavy or short newcomer comes at every step, for ever."""
    batcher, now, step_s = StepBatcher(order, max_rows=1), 0.0, 2.0
    batcher.add(Lane("patient", 8, 1, now))
    for turn in range(1000):
        steps, left, weight = rivals[turn % len(rivals)]
        batcher.add(Lane(f"r{turn}", steps, 1, now, now + left, weight))
        plan = batcher.plan(now)
        assert plan is not None
        if any(done.key == "patient" for done in batcher.commit(plan, now, now + step_s)):
            return
        now += step_s
    pytest.fail("the patient lane never ran")
