"""The sizes of pools."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.cluster.autoscaling import WORKERS, PoolBounds, Scaler, ScalerRule, Sizes

POOLS = {WORKERS: PoolBounds(1, 8), "a": PoolBounds(0, 4, value=2.0), "b": PoolBounds(1, 4)}
TICKS = st.lists(st.tuples(st.sampled_from(sorted(POOLS)), st.floats(0, 400), st.floats(-5, 60)), max_size=40)


@given(TICKS, st.integers(2, 12))
def test_the_budget_holds_whatever_the_clock_does(ticks: list[tuple[str, float, float]], budget: int) -> None:
    """No size exceeds its bounds, and all together the budget, also when clocks jump and reports are lost."""
    scaler = Scaler(ScalerRule(up_delay_s=5.0, down_delay_s=20.0), POOLS, budget)
    current, now = {WORKERS: 1, "b": 1}, 0.0
    for pool, seconds, gap in ticks:
        now = max(0.0, now + gap)
        scaler.offered(pool, seconds, now)
        sizes = scaler.decide(current, now)
        assert sum(sizes.gpus.values()) <= budget
        assert all(POOLS[name].least <= size <= POOLS[name].most for name, size in sizes.gpus.items())
        assert all(change.reason for change in sizes.changes)
        current = dict(sizes.gpus)


def after(scaler: Scaler, current: dict[str, int], seconds: float, now: float) -> Sizes:
    """Two decisions so far apart, of which the second is returned."""
    scaler.decide(current, now)
    return scaler.decide(current, now + seconds)


def test_growth_waits_and_shrinking_waits_longer() -> None:
    """Work that asks for four workers grows the pool after 15 s; silence shrinks it after five minutes."""
    scaler = Scaler(ScalerRule(), POOLS, 16)
    scaler.offered(WORKERS, 200.0, 0.0)
    assert scaler.wanted(WORKERS, 0.0) == 4
    assert after(scaler, {WORKERS: 1, "b": 1}, 10.0, 0.0).changes == ()
    grown = scaler.decide({WORKERS: 1, "b": 1}, 15.0)
    assert grown.workers == 3  # the work fades meanwhile
    assert after(scaler, dict(grown.gpus), 299.0, 20.0).workers == 3
    assert scaler.decide(dict(grown.gpus), 619.0).workers == 1  # wanted since 319


def test_a_lull_in_between_starts_the_wait_anew() -> None:
    """A burst that ends and returns does not add up to a wait: nothing flaps."""
    scaler = Scaler(ScalerRule(half_life_s=2.0), POOLS, 16)
    for second in range(0, 200, 20):
        scaler.offered(WORKERS, 30.0, float(second))
        for tick in range(20):
            assert scaler.decide({WORKERS: 2, "b": 1}, float(second + tick)).changes == ()


def test_what_shrinks_is_not_given_away_before_it_is_free() -> None:
    """With the budget used up, one pool shrinks in this tick and the other grows in a later one."""
    scaler = Scaler(ScalerRule(up_delay_s=0.0, down_delay_s=0.0), POOLS, 6)
    scaler.offered("a", 300.0, 0.0)
    current = {WORKERS: 5, "a": 0, "b": 1}
    first = scaler.decide(current, 0.0)
    assert [change.pool for change in first.changes] == [WORKERS]
    second = scaler.decide(dict(first.gpus), 1.0)
    assert second.gpus["a"] == 4
    assert sum(second.gpus.values()) <= 6


def test_scarce_gpus_go_where_they_are_worth_most() -> None:
    """Of two pools that want two each and have none, the one of double value gets the free two."""
    pools = {"cheap": PoolBounds(0, 4), "dear": PoolBounds(0, 4, value=2.0)}
    scaler = Scaler(ScalerRule(up_delay_s=0.0), pools, 2)
    for name in pools:
        scaler.offered(name, 100.0, 0.0)
    assert scaler.decide({}, 0.0).gpus == {"cheap": 0, "dear": 2}


def test_a_tick_makes_few_changes() -> None:
    """At most 16 of a hundred pools that all want to grow."""
    pools = {f"p{number}": PoolBounds() for number in range(100)}
    scaler = Scaler(ScalerRule(up_delay_s=0.0), pools, 1000)
    for name in pools:
        scaler.offered(name, 100.0, 0.0)
    assert len(scaler.decide({}, 0.0).changes) == 16


def test_bounds_beyond_the_budget_are_refused() -> None:
    """The error has both numbers."""
    with pytest.raises(ValueError, match="3 GPUs at the least, the budget is 2"):
        Scaler(ScalerRule(), {"a": PoolBounds(3, 4)}, 2)
