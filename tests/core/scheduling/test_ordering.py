"""Lane policies: which lane goes first, and that every lane has its place."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.costs import Rates, StepWork
from lego_serve.core.scheduling.lane import Lane
from lego_serve.core.scheduling.ordering import (
    LANE_POLICIES,
    LanePolicy,
    ReplicaPace,
    fifo,
    least_slack,
    shortest_remaining,
)


def lane(
    added_s: float = 0.0, deadline_s: float | None = None, steps: int = 4, weight: float = 1.0, rows: int = 1
) -> Lane:
    return Lane("k", (StepWork(rows, rows),) * steps, added_s, deadline_s, weight)


def pace(step_s: float = 0.5) -> ReplicaPace:
    """A replica whose steps take so long, with nothing in common to share."""
    return ReplicaPace(Rates(constant_s=step_s), step_s)


def first(policy: LanePolicy, lanes: Sequence[Lane], now: float = 10.0, speed: ReplicaPace | None = None) -> int:
    return policy(lanes, now, speed or pace())[0]


def test_fifo_is_by_arrival() -> None:
    """First come, first served, whatever else is said."""
    assert fifo([lane(2.0, deadline_s=3.0), lane(1.0)], 5.0, pace()) == [1, 0]


def test_least_slack_prefers_the_earlier_deadline() -> None:
    """Of two alike lanes the one due sooner goes first."""
    assert first(least_slack, [lane(deadline_s=30.0), lane(deadline_s=20.0)]) == 1


def test_least_slack_counts_the_work_that_is_left() -> None:
    """Of two lanes due at once the one with more steps to go goes first."""
    assert first(least_slack, [lane(deadline_s=30.0, steps=2), lane(deadline_s=30.0, steps=20)]) == 1


def test_a_heavier_tenant_goes_first() -> None:
    """Of two alike lanes the one of more weight goes first, late or not."""
    for deadline_s in (5.0, 30.0, None):
        assert first(least_slack, [lane(deadline_s=deadline_s), lane(deadline_s=deadline_s, weight=2.0)]) == 1


def test_a_lane_that_cannot_make_it_goes_behind_those_that_can() -> None:
    """A deadline nearer than the lane's own work lets others first: serving it would make more of them late."""
    assert first(least_slack, [lane(deadline_s=11.0, steps=20), lane(deadline_s=40.0, steps=20)]) == 1


def test_lanes_without_deadline_do_not_take_turns() -> None:
    """A lane that has begun stays ahead of an equal one that came later, so that it ends early."""
    begun, later = lane(0.0, steps=20), lane(0.1, steps=20)
    begun.next_step = 15
    assert first(least_slack, [later, begun]) == 1


def test_a_deadline_goes_before_patience() -> None:
    """A lane due soon overtakes one that came a little earlier and names no deadline."""
    assert first(least_slack, [lane(8.0), lane(9.0, deadline_s=14.0)]) == 1


def test_shortest_remaining_prefers_less_work() -> None:
    """Of two lanes that came together the one with fewer steps left goes first."""
    assert first(shortest_remaining, [lane(steps=9), lane(steps=3)]) == 1


def test_shortest_remaining_counts_rows() -> None:
    """Of two lanes of as many steps the smaller image goes first."""
    speed = ReplicaPace(Rates(row_s=0.01), 0.5)
    assert first(shortest_remaining, [lane(rows=200), lane(rows=50)], speed=speed) == 1


def test_waiting_beats_short_work() -> None:
    """A long lane that has waited long goes before a short newcomer."""
    assert first(shortest_remaining, [lane(100.0, steps=1), lane(0.0, steps=50)], now=100.0) == 1


@pytest.mark.parametrize("policy", LANE_POLICIES.values(), ids=LANE_POLICIES.keys())
@given(
    lanes=st.lists(
        st.builds(
            lane,
            st.floats(0, 100),
            st.one_of(st.none(), st.floats(0, 1000)),
            st.integers(1, 100),
            st.floats(0.01, 1000),
        ),
        max_size=20,
    ),
    now=st.floats(100, 1000),
    step_s=st.floats(0, 10),
)
def test_a_policy_names_every_lane_once(policy: LanePolicy, lanes: list[Lane], now: float, step_s: float) -> None:
    """What comes out is a permutation of the lanes, and asking again gives the same."""
    order = policy(lanes, now, pace(step_s))
    assert sorted(order) == list(range(len(lanes)))
    assert policy(lanes, now, pace(step_s)) == order


@pytest.mark.parametrize("policy", LANE_POLICIES.values(), ids=LANE_POLICIES.keys())
def test_ties_go_to_the_earlier_in_the_list(policy: LanePolicy) -> None:
    """Equal lanes keep their places."""
    assert policy([lane(), lane(), lane()], 1.0, pace()) == [0, 1, 2]
