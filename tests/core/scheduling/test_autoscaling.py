"""The board that tells of how many replicas there should be, and why that changed."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.scheduling.autoscaling import BOUNDS, ReplicaBounds, ScaleDecision
from lego_serve.core.scheduling.scale_board import CHANGES_KEPT, PLACED, NodeScale, ScaleBoard

NODES = st.sampled_from(["a.backbone", "b.vae"])
ANY_BOUNDS = st.tuples(st.integers(1, 4), st.integers(0, 4)).map(lambda each: ReplicaBounds(each[0], sum(each)))
STEPS = st.lists(st.tuples(NODES, st.integers(1, 9), ANY_BOUNDS, st.booleans()), max_size=40)


@given(STEPS)
def test_changes_lead_from_each_target_to_the_next(steps: list[tuple[str, int, ReplicaBounds, bool]]) -> None:
    """Each has a reason; the first word about a node is none; the board is the same after a journey."""
    board, targets = ScaleBoard(), dict[str, int]()
    for now, (node, wanted, bounds, is_pinned) in enumerate(steps):
        current = targets.get(node, bounds.min)
        is_bounded = bounds.clamp(current) != current
        decision = ScaleDecision(bounds.clamp(wanted), BOUNDS if is_bounded else f"requests want {wanted}")
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


def test_what_replicas_wait_for_is_a_change_once_and_so_is_its_end() -> None:
    """Also beside one of the target, and where it is the first word about a node."""
    board, bounds, two, three = ScaleBoard(), ReplicaBounds(1, 4), ScaleDecision(2, "why"), ScaleDecision(3, "more")
    looks = ((2, two, "1 of 2 waits"), (2, two, "1 of 2 waits"), (2, three, "2 of 3 wait"), (3, three, ""))
    said = [board.note("a.vae", was, decision, bounds, 0.0, waits=waits) for was, decision, waits in looks]
    assert said == [True, False, True, True]
    assert [(each.before, each.after, each.why) for each in board.changes] == [
        (2, 2, "1 of 2 waits"),
        (2, 3, "more"),
        (3, 3, "2 of 3 wait"),
        (3, 3, PLACED),
    ]
    again = ScaleBoard.from_json(board.to_json())
    assert (again.nodes, list(again.changes)) == (board.nodes, list(board.changes))


def test_a_board_that_an_earlier_version_wrote_is_read() -> None:
    """Of replicas that wait it said nothing."""
    board = ScaleBoard.from_json('{"nodes":{"a.vae":[2,1,4,false]},"changes":[]}')
    assert board.nodes == {"a.vae": NodeScale(2, ReplicaBounds(1, 4))}


def test_an_empty_text_is_an_empty_board_and_old_changes_go() -> None:
    """It never grows without end."""
    board, bounds = ScaleBoard.from_json(""), ReplicaBounds(1, 9)
    for count in range(2 * CHANGES_KEPT):
        current = 1 + count % 2
        decision = ScaleDecision(3 - current, f"requests want {3 - current}")
        board.note("a.backbone", current, decision, bounds, float(count))
    assert len(board.changes) == CHANGES_KEPT
    assert len(board.to_json()) < 20_000
