"""Autoscaling: how many replicas there should be, when a change is made, and the board that tells of it."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.scheduling.autoscaling import ReplicaBounds, ScaleDecision, ScaleState, ScalingRule
from lego_serve.core.scheduling.scale_board import CHANGES_KEPT, ScaleBoard

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


NODES = st.sampled_from(["a.backbone", "b.vae"])
ANY_BOUNDS = st.tuples(st.integers(1, 4), st.integers(0, 4)).map(lambda each: ReplicaBounds(each[0], sum(each)))
STEPS = st.lists(st.tuples(NODES, st.floats(0, 80), ANY_BOUNDS, st.booleans()), max_size=40)


@given(STEPS)
def test_changes_lead_from_each_target_to_the_next(steps: list[tuple[str, float, ReplicaBounds, bool]]) -> None:
    """Each has a reason; the first word about a node is none; the board is the same after a journey."""
    board, targets = ScaleBoard(), dict[str, int]()
    rule = ScalingRule(up_delay_s=0, down_delay_s=0)
    for now, (node, ongoing, bounds, is_pinned) in enumerate(steps):
        current = targets.get(node, bounds.min)
        decision = rule.decide(ongoing, current, bounds, ScaleState(), float(now))
        board.note(node, current, decision, bounds, float(now), is_pinned=is_pinned)
        targets[node] = decision.replicas
        assert board.nodes[node].target == decision.replicas
        assert not board.note(node, decision.replicas, decision, bounds, float(now), is_pinned=is_pinned)
    for node in targets:
        changes = [each for each in board.changes if each.node == node]
        assert all(each.why for each in changes)
        assert all(one.after == other.before for one, other in pairwise(changes))
    again = ScaleBoard.from_json(board.to_json())
    assert (again.nodes, list(again.changes)) == (board.nodes, list(board.changes))
    assert [each.number for each in board.changes] == sorted({each.number for each in board.changes})


def test_an_empty_text_is_an_empty_board_and_old_changes_go() -> None:
    """It never grows without end."""
    board, bounds = ScaleBoard.from_json(""), ReplicaBounds(1, 9)
    rule = ScalingRule(up_delay_s=0, down_delay_s=0)
    for count in range(2 * CHANGES_KEPT):
        current = 1 + count % 2
        decision = rule.decide(16.0 if current == 1 else 1.0, current, bounds, ScaleState(), float(count))
        board.note("a.backbone", current, decision, bounds, float(count))
    assert len(board.changes) == CHANGES_KEPT
    assert len(board.to_json()) < 20_000
