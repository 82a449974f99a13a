"""StepBatcher under random arrivals: every lane takes exactly its steps, and none starves."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lego_serve.core.scheduling.ordering import LANE_POLICIES, fifo, least_slack, shortest_remaining
from tests.support.engine.batched_lanes import STEP_S, batcher_of, lane

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


@pytest.mark.parametrize("policy", LANE_POLICIES.values(), ids=LANE_POLICIES.keys())
@settings(max_examples=60, deadline=None)
@given(coming=arrivals, max_rows=st.integers(1, 60))
def test_every_lane_takes_exactly_its_steps(policy, coming, max_rows) -> None:  # type: ignore[no-untyped-def]
    """Under any arrivals: steps 0, 1, 2, ... of each lane run once, budgets hold, and all lanes end."""
    batcher, now, ran = batcher_of(policy, max_rows), 0.0, {}
    waiting = [(sum(w for w, *_ in coming[: i + 1]), f"l{i}", *rest) for i, (_, *rest) in enumerate(coming)]
    rows = {key: r for _, key, _, r, *_ in waiting}
    cancelled: set[str] = set()
    finished: set[str] = set()
    for turn in range(sum(steps for _, _, steps, *_ in waiting) + len(coming) * 3 + 1):
        for _, key, steps, many, left, weight, _ in [w for w in waiting if w[0] == turn]:
            batcher.add(lane(key, steps, many, now, deadline_s=None if left is None else now + left, weight=weight))
            ran[key] = []
        plan = batcher.plan(now)
        if plan is not None:
            assert plan.work.rows == sum(rows[k] for k in plan.keys)
            assert plan.work.rows <= max_rows or len(plan.keys) == 1
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


@pytest.mark.parametrize("policy", [fifo, least_slack, shortest_remaining])
@settings(max_examples=15, deadline=None)
@given(rivals=st.lists(st.tuples(st.integers(1, 8), st.floats(0, 1), st.floats(0.125, 8)), min_size=1, max_size=6))
def test_nothing_starves(policy, rivals) -> None:  # type: ignore[no-untyped-def]
    """A patient lane ends although an urgent, heavy or short newcomer comes at every step, for ever."""
    batcher, now, step_s = batcher_of(policy, 1), 0.0, 2.0
    batcher.add(lane("patient", 8, 1, now))
    for turn in range(1000):
        steps, left, weight = rivals[turn % len(rivals)]
        batcher.add(lane(f"r{turn}", steps, 1, now, deadline_s=now + left, weight=weight))
        plan = batcher.plan(now)
        assert plan is not None
        if any(done.key == "patient" for done in batcher.commit(plan, now, now + step_s)):
            return
        now += step_s
    pytest.fail("the patient lane never ran")
