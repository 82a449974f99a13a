"""What remains of a lane, and its work if it runs alone."""

from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.costs import StepWork
from lego_serve.core.scheduling.batching import StepBatcher, StepLimits
from lego_serve.core.scheduling.lane import Lane, with_missing
from lego_serve.core.scheduling.ordering import fifo

work_of_steps = st.lists(st.builds(StepWork, st.integers(1, 99), st.integers(0, 99)), min_size=1, max_size=6)
work_by_key = st.dictionaries(st.sampled_from("xyz"), st.builds(StepWork, st.integers(0, 9), st.integers(0, 9)))


@given(work_of_steps)
def test_what_is_left_is_the_sum_of_the_steps_to_come(work: list[StepWork]) -> None:
    """Steps, rows and pairs, from each step on."""
    lane = Lane("a", tuple(work), 0.0)
    while not lane.is_finished:
        rest = work[lane.next_step :]
        assert lane.left == (len(rest), sum(step.rows for step in rest), sum(step.pairs for step in rest))
        assert lane.steps_left == len(rest)
        lane.next_step += 1
    assert lane.steps_left == 0


@given(work_of_steps, st.data(), st.sets(st.sampled_from("xyz")))
def test_a_lane_alone_runs_all_shared_work_that_is_not_cached(
    work: list[StepWork], data: st.DataObject, cached: set[str]
) -> None:
    """The batcher plans for it what `with_missing` predicts."""
    shared = data.draw(st.lists(work_by_key, min_size=len(work), max_size=len(work)))
    batcher = StepBatcher(fifo, StepLimits(float("inf")))
    batcher.add(Lane("a", tuple(work), 0.0, shared=tuple(shared)))
    for step, expected in enumerate(with_missing(work, shared, cached)):
        plan = batcher.plan(0.0, cached)
        assert plan is not None
        assert (plan.steps, plan.work) == ((step,), expected)
        batcher.commit(plan, 0.0, 0.1)
    assert with_missing(work, shared, "xyz") == tuple(work)
