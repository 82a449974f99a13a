"""What follows a pass that ran out of memory: the same lanes in smaller batches, until they fit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.scheduling.memory_limit import halve_batch

ROWS_A_LANE = 100


def passes(keys: tuple[str, ...], fit: int) -> tuple[list[tuple[str, ...]], list[int]]:
    """The passes that a batch takes where ``fit`` lanes fit into memory, and the limits set on the way."""
    if len(keys) <= max(fit, 1):
        return [keys], []
    retry = halve_batch(keys, ROWS_A_LANE * len(keys))
    batches, limits = [], [retry.max_rows]
    for part in retry.parts:
        more, lower = passes(part, fit)
        batches += more
        limits += lower
    return batches, limits


@given(count=st.integers(2, 100), rows_a_lane=st.integers(1, 10_000))
def test_halves_hold_every_lane_once_and_in_order(count: int, rows_a_lane: int) -> None:
    """They differ by a lane at most, and the limit is half of what failed."""
    keys = tuple(f"lane-{index}" for index in range(count))
    retry = halve_batch(keys, count * rows_a_lane)
    first, second = retry.parts
    assert first + second == keys
    assert 0 <= len(first) - len(second) <= 1
    assert 1 <= retry.max_rows == count * rows_a_lane // 2 < count * rows_a_lane


@given(count=st.integers(1, 64), fit=st.integers(0, 64))
def test_halving_ends_with_every_lane_run_once(count: int, fit: int) -> None:
    """In batches that fit, or alone where not even one does; limits only fall from one half to its own halves."""
    keys = tuple(map(str, range(count)))
    batches, limits = passes(keys, fit)
    assert sum(batches, ()) == keys
    assert all(len(batch) <= max(fit, 1) for batch in batches)
    assert len(limits) == len(batches) - 1
    assert max(limits, default=0) == (limits[0] if limits else 0)


@pytest.mark.parametrize(("keys", "rows"), [((), 0), (("a",), 100), (("a", "b"), 1)])
def test_a_batch_that_cannot_be_halved_is_refused(keys: tuple[str, ...], rows: int) -> None:
    """A lane alone has nothing to leave out."""
    with pytest.raises(ValueError, match="cannot be halved"):
        halve_batch(keys, rows)
