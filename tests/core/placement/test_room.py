"""What replicas without a node are said to wait for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.placement.room import SETTLED_S, Ask, ClusterRoom, LabelRule, NodeWaits

LABELS = st.dictionaries(st.sampled_from(["class", "zone"]), st.sampled_from(["a", "!a", "in(a, b)", "!in(a,b)"]))
ASKS = st.builds(Ask.of, st.dictionaries(st.sampled_from(["CPU", "GPU"]), st.sampled_from([0, 0.5, 1, 2])), LABELS)
ROOMS = st.builds(
    ClusterRoom,
    st.lists(st.tuples(ASKS, st.integers(1, 4)), max_size=3).map(tuple),
    st.lists(ASKS, max_size=2).map(tuple),
    st.booleans(),
)
LOOKS = st.lists(st.tuples(st.integers(1, 5), st.integers(-2, 5), ASKS, ROOMS, st.floats(-3, 8)), max_size=30)
BIG = Ask.of({"GPU": 1.0, "CPU": 0}, {"class": "big"})


@pytest.mark.parametrize(
    ("rule", "value", "holds"),
    [("a", "a", True), ("a", None, False), ("!a", "b", True), ("in(a, b)", "b", True), ("!in(a,b)", "a", False)],
)
def test_label_rules_are_rays(rule: str, value: str | None, holds: bool) -> None:
    """A value, not a value, one of several, none of several."""
    assert LabelRule.read("class", rule).holds({} if value is None else {"class": value}) is holds


def test_asks_are_the_same_as_far_as_ray_tells_them_apart() -> None:
    """It keeps ten-thousandths; what is 0 is not asked; labels count, in whatever order they are named."""
    assert BIG.is_like(Ask({"GPU": 1.00004}, frozenset([LabelRule("class", frozenset(["big"]))])))
    assert not BIG.is_like(Ask.of({"GPU": 1.0}, {"class": "!big"}))
    assert not BIG.is_like(Ask.of({"GPU": 1.0, "CPU": 1}, {"class": "big"}))
    assert not BIG.is_like(Ask.of({"GPU": 0.9}, {"class": "big"}))
    assert Ask.of({}, {"z": "in(b,a)"}).is_like(Ask.of({}, {"z": "in(a, b)"}))


def test_words_say_what_is_missing_and_whether_it_comes() -> None:
    """For whoever asks why a replica is not there."""
    asked = ((BIG, 2), (Ask({}), 1))
    said = "2 of 3 replicas wait for a node: none has 1 GPU free where class is big"
    assert ClusterRoom(asked, (), True).why(BIG, 2, 3) == f"{said}, until the autoscaler has added one"
    assert ClusterRoom(asked, (BIG,), True).why(BIG, 2, 3) == f"{said}, and nothing adds one"
    assert ClusterRoom(asked).why(BIG, 2, 3) == f"{said}, and nothing adds one"
    assert ClusterRoom(asked).why(Ask({}), 1, 1).startswith("1 of 1 replicas waits for a node: none has a place free, ")


@given(LOOKS)
def test_none_waits_that_is_not_missing_and_asked_for_and_none_is_told_of_early(
    looks: list[tuple[int, int, Ask, ClusterRoom, float]],
) -> None:
    """Whatever the clock does: what has waited without a break for as long as it takes to settle is told."""
    waits, now, since = NodeWaits(), 100.0, None
    for wanted, missing, ask, room, pause_s in looks:
        now += pause_s
        said = waits.look("app", wanted, missing, ask, room, now)
        waiting = min(missing, room.waiting(ask))
        since = None if waiting <= 0 else min(now, now if since is None else since)
        is_due = since is not None and now - since >= SETTLED_S
        assert said == (room.why(ask, waiting, wanted) if is_due else "")


def test_applications_wait_each_for_itself() -> None:
    """One that comes to have its node again begins anew."""
    waits, room = NodeWaits(), ClusterRoom(((BIG, 1),))
    assert not waits.look("one", 1, 1, BIG, room, 0)
    assert not waits.look("two", 1, 1, BIG, room, SETTLED_S - 1)
    assert waits.look("one", 1, 1, BIG, room, SETTLED_S)
    assert not waits.look("one", 1, 0, BIG, room, SETTLED_S + 1)
    assert not waits.look("one", 1, 1, BIG, room, SETTLED_S + 2)
    assert not waits.look("two", 1, 1, BIG, ClusterRoom(), 2 * SETTLED_S)
