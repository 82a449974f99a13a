"""Rows per block: how many rows each block of each evaluation computes, for every plan that a lane could run."""

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lego_serve.core.tiers.block_rows import BlockRows

SHARE = st.floats(0.001, 1)


@given(st.data())
def test_each_block_has_the_rows_of_its_share_and_the_first_all(data: st.DataObject) -> None:
    """Rounded down, but one at the least; the end of a grid has the end of the shares."""
    blocks, evaluations = data.draw(st.integers(2, 6)), data.draw(st.integers(1, 8))
    later = st.lists(SHARE, min_size=blocks - 1, max_size=blocks - 1)
    shares = [(1.0, *data.draw(later)) for _ in range(evaluations)]
    plan, tokens = BlockRows(tuple(shares)), data.draw(st.integers(1, 5000))
    for left in range(1, evaluations + 1):
        rows = plan.rows(left, tokens)
        assert rows[0] == tokens
        assert all(1 <= count <= tokens for count in rows)
        for count, share in zip(rows, shares[evaluations - left], strict=True):
            assert count == max(1, math.floor(share * tokens))
    assert (plan.evaluations, plan.blocks) == (evaluations, blocks)
    assert plan.rows_ratio == pytest.approx(sum(map(sum, shares)) / (evaluations * blocks))


@given(early=SHARE, late=SHARE, evaluations=st.integers(1, 40), blocks=st.integers(2, 60))
@example(early=0.1535044483682743, late=1.0, evaluations=15, blocks=2)  # rounds to more than 1
def test_rising_shares_go_from_the_one_to_the_other(early: float, late: float, evaluations: int, blocks: int) -> None:
    """The first evaluation is whole, as it is where nothing came before it."""
    plan = BlockRows.rising(early, late, evaluations, blocks)
    assert plan.shares[0] == (1.0,) * blocks
    later = [shares[1] for shares in plan.shares[1:]]
    assert all(set(shares[1:]) == {shares[1]} for shares in plan.shares[1:])
    assert later == sorted(later, reverse=late < early)
    if len(later) > 1:
        assert (later[0], later[-1]) == (early, pytest.approx(late))


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        ((), "need two blocks"),
        (((),), "need two blocks"),
        (((1.0,),), "need two blocks"),
        (((1.0, 0.5), (1.0, 0.5, 0.5)), "as many in all of 2 evaluations"),
        (((0.9, 0.5),), "1 in the first block"),
        (((1.0, 0.0),), "over 0"),
        (((1.0, 1.1),), "at most 1"),
        (((1.0, math.nan),), "shares over 0"),
    ],
)
def test_shares_that_no_lane_could_run_are_refused(shares: tuple[tuple[float, ...], ...], said: str) -> None:
    """In words that say what is needed."""
    with pytest.raises(ValueError, match=said):
        BlockRows(shares)
