"""Which replicas hang: those that owe an answer or are stuck in a step; calls leave them, and no others."""

from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.nodes.requests import RunningStep
from lego_serve.core.scheduling.liveness import (
    LATE_FACTOR,
    MAX_DOUBLINGS,
    PATIENCE_S,
    QUIET_S,
    WEDGED_S,
    ReplicaLiveness,
    is_wedged,
    patience_s,
)

TWO = ("r1", "r2")
ANSWERS = st.lists(st.tuples(st.sampled_from(TWO), st.floats(0.01, 5.0), st.booleans()), min_size=1, max_size=30)


def out(*replicas: str, hangs: int = 0) -> ReplicaLiveness:
    """A call ``c`` that went out at 0 and was accepted at once by the first of these replicas."""
    liveness = ReplicaLiveness()
    liveness.asked(replicas, -1.0)
    for replica in replicas:
        liveness.answered(replica, (), None, -1.0)
    liveness.begin("c", hangs, 0.0)
    liveness.heard("c", 0.0, replicas[0])
    return liveness


def test_replicas_are_asked_only_while_a_call_is_silent() -> None:
    """A call that speaks needs no question."""
    liveness = out(*TWO)
    assert not liveness.is_due(QUIET_S / 2)
    assert liveness.is_due(QUIET_S)
    liveness.heard("c", QUIET_S)
    assert not liveness.is_due(QUIET_S)
    liveness.end("c")
    assert (liveness.is_due(1000.0), liveness.is_idle) == (False, True)


def test_a_replica_that_does_not_answer_loses_its_calls_to_another() -> None:
    """Three seconds after it was asked, and not before."""
    liveness = out(*TWO)
    liveness.asked(TWO, 1.0)
    liveness.answered("r2", (), None, 1.1)
    assert not liveness.lost(1.0 + PATIENCE_S - 0.01)
    assert liveness.hung(1.0 + PATIENCE_S) == {"r1"}
    assert liveness.lost(1.0 + PATIENCE_S) == ["c"]


def test_the_only_replica_keeps_its_calls() -> None:
    """Nobody else could take them: they wait for it, or for its end."""
    liveness = out("r1")
    liveness.asked(("r1",), 1.0)
    assert liveness.hung(100.0) == {"r1"}
    assert not liveness.lost(100.0)


def test_calls_stay_where_they_are_while_every_replica_hangs() -> None:
    """It is the machine or the network then, and moving is of no use."""
    liveness = out(*TWO)
    liveness.asked(TWO, 1.0)
    assert not liveness.lost(100.0)


def test_whoever_says_anything_lives() -> None:
    """A message of the call counts as an answer to what was asked before."""
    liveness = out(*TWO)
    liveness.asked(TWO, 1.0)
    liveness.answered("r2", (), None, 1.1)
    liveness.heard("c", 3.0)
    assert not liveness.hung(3.9) | set(liveness.lost(3.9))


def test_a_replica_that_answers_again_is_one_of_the_living() -> None:
    """It was stopped for a while; it gets calls again."""
    liveness = out(*TWO)
    liveness.asked(TWO, 1.0)
    liveness.answered("r2", (), None, 1.1)
    assert liveness.hung(5.0) == {"r1"}
    assert liveness.is_due(5.0)
    liveness.answered("r1", ("c",), None, 5.1)
    assert not liveness.hung(5.2)


def test_a_step_that_does_not_end_is_as_good_as_no_answer() -> None:
    """Ten times what was predicted, and three seconds at least: a process that answers may still be stuck."""
    for predicted_s, limit_s in ((0.02, PATIENCE_S), (2.0, LATE_FACTOR * 2.0)):
        for elapsed_s, lost in ((limit_s - 0.01, []), (limit_s, ["c"])):
            liveness = out(*TWO)
            liveness.asked(TWO, 1.0)
            liveness.answered("r2", (), None, 1.1)
            liveness.answered("r1", ("c",), RunningStep(elapsed_s, predicted_s), 1.1)
            assert liveness.lost(1.2) == lost, (predicted_s, elapsed_s)


def test_a_call_that_nobody_has_was_lost_on_its_way() -> None:
    """All who answer were asked after it went out, and none knows it: three seconds later it is made again."""
    liveness = ReplicaLiveness()
    liveness.begin("c", 0, 0.0)
    for at_s in (1.0, 2.0, 4.0):
        liveness.asked(TWO, at_s)
        for replica in TWO:
            liveness.answered(replica, ("another",), None, at_s + 0.1)
        liveness.settle(at_s + 0.1)
        assert liveness.lost(at_s + 0.1) == (["c"] if at_s - 1.0 >= PATIENCE_S - 0.2 else [])


def test_a_call_that_waits_in_a_replica_is_not_lost_however_long() -> None:
    """Its replica says that it has it: a queue may be long."""
    liveness = ReplicaLiveness()
    liveness.begin("c", 0, 0.0)
    for at_s in range(1, 600):
        liveness.asked(TWO, float(at_s))
        liveness.answered("r1", (), None, at_s + 0.1)
        liveness.answered("r2", ("c",), RunningStep(0.1, 0.1), at_s + 0.1)
        liveness.settle(at_s + 0.1)
        assert not liveness.lost(at_s + 0.2)


def test_a_replica_that_has_left_is_no_longer_waited_for() -> None:
    """The cluster has taken it away: nothing of it hangs."""
    liveness = out(*TWO)
    liveness.asked(TWO, 1.0)
    liveness.answered("r2", (), None, 1.1)
    liveness.asked(("r2",), 6.0)
    assert not liveness.hung(6.1)


@given(st.integers(0, 100), st.floats(0, 1e3))
def test_patience_grows_with_every_time_a_call_was_given_up_up_to_a_bound(hangs: int, predicted_s: float) -> None:
    """So a step that is slow on every replica is run to its end on one of them."""
    assert patience_s(hangs + 1, predicted_s) in (patience_s(hangs, predicted_s), 2 * patience_s(hangs, predicted_s))
    assert patience_s(hangs, predicted_s) <= max(PATIENCE_S, LATE_FACTOR * predicted_s) * 2**MAX_DOUBLINGS
    liveness = out(*TWO, hangs=min(hangs, 9))
    liveness.asked(TWO, 1.0)
    liveness.answered("r2", (), None, 1.1)
    assert not liveness.lost(1.0 + patience_s(min(hangs, 9)) - 0.01)
    assert liveness.lost(1.0 + patience_s(min(hangs, 9))) == ["c"]


@given(ANSWERS)
def test_no_call_is_taken_from_a_replica_that_answers_in_time(events: list[tuple[str, float, bool]]) -> None:
    """Whatever the other one does: r1 answers each question at once and has the call."""
    liveness, now = out(*TWO), 0.0
    for replica, pause_s, is_answered in events:
        now += pause_s
        liveness.asked(TWO, now)
        liveness.answered("r1", ("c",), None, now)
        if is_answered and replica == "r2":
            liveness.answered("r2", (), None, now)
        liveness.settle(now)
        assert not liveness.lost(now)
        assert "r1" not in liveness.hung(now)


@given(ANSWERS)
def test_a_silent_replica_loses_its_call_in_time_whenever_another_answers(
    events: list[tuple[str, float, bool]],
) -> None:
    """However often it is asked: the first question that it owes an answer to counts."""
    liveness, now = out(*TWO), 1.0
    for _, pause_s, _ in events:
        liveness.asked(TWO, now)
        liveness.answered("r2", (), None, now)
        liveness.settle(now)
        is_late = now - 1.0 >= PATIENCE_S
        assert liveness.lost(now) == (["c"] if is_late else [])
        now += pause_s


def test_a_process_ends_only_when_its_step_is_very_late() -> None:
    """Its calls have long gone elsewhere; a first step may compile kernels."""
    assert not is_wedged(None)
    assert not is_wedged(RunningStep(WEDGED_S - 1, 0.01))
    assert is_wedged(RunningStep(WEDGED_S, 0.01))
    assert not is_wedged(RunningStep(100.0, 10.0))
    assert is_wedged(RunningStep(200.0, 10.0))
