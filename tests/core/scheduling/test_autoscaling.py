"""Autoscaling: how many replicas there should be, and when a change is made."""

from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.scheduling.autoscaling import ReplicaBounds, ScaleDecision, ScaleState, ScalingRule

RULE, BOUNDS = ScalingRule(target_ongoing=8, up_delay_s=30, down_delay_s=600), ReplicaBounds(1, 4)


def played(*ongoing: float, every_s: float = 10.0, current: int = 1) -> list[int]:
    """The replicas decided on at one load after another."""
    state, counts = ScaleState(), []
    for number, load in enumerate(ongoing):
        decision = RULE.decide(load, current, BOUNDS, state, number * every_s)
        current, state = decision.replicas, decision.state
        counts.append(current)
    return counts


def test_growth_waits_until_it_has_been_wanted_for_a_while() -> None:
    """Half a minute here; a burst that is over sooner moves nothing."""
    assert played(20, 20, 20, 20, 20) == [1, 1, 1, 3, 3]
    assert played(20, 20, 1, 20, 20) == [1, 1, 1, 1, 1]


def test_shrinking_waits_longer() -> None:
    """Ten minutes, for a replica is dear to start."""
    assert played(*[1] * 61, current=3) == [3] * 60 + [1]


def test_bounds_hold_at_once() -> None:
    """Also where they were changed while it ran."""
    assert RULE.decide(0, 9, BOUNDS, ScaleState(), 0.0).replicas == 4
    assert RULE.decide(0, 0, BOUNDS, ScaleState(), 0.0).replicas == 1
    assert RULE.decide(1e9, 4, BOUNDS, ScaleState(), 0.0).replicas == 4


def test_a_decision_says_why() -> None:
    """In words for operators."""
    assert RULE.decide(20, 1, BOUNDS, ScaleState(), 0.0).reason == "20 requests want 3, waiting"
    assert RULE.decide(20, 3, BOUNDS, ScaleState(), 0.0).reason == "20 requests suit 3"


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 700)), max_size=40), st.integers(0, 3), st.integers(0, 5))
def test_no_decision_leaves_the_bounds_or_comes_before_its_time(
    events: list[tuple[float, float]], least: int, more: int
) -> None:
    """Whatever the loads and the times between them."""
    bounds = ReplicaBounds(least, least + more)
    state, current, now, wanted_since = ScaleState(), least, 0.0, 0.0
    for ongoing, passed_s in events:
        now += passed_s
        before, wanted = current, RULE.wanted(ongoing, bounds)
        decision: ScaleDecision = RULE.decide(ongoing, current, bounds, state, now)
        if state.direction == 0 or (wanted - before) * state.direction <= 0:
            wanted_since = now
        current, state = decision.replicas, decision.state
        assert bounds.min <= current <= bounds.max
        if current != before:
            assert current == wanted
            assert now - wanted_since >= (RULE.up_delay_s if current > before else RULE.down_delay_s)
