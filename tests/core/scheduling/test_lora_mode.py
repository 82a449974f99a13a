"""Grouped or patched: the choice, and the plans that follow from it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.costs import Rates, StepWork
from lego_serve.core.scheduling.batching import RELAX_STEPS, StepBatcher, StepLimits
from lego_serve.core.scheduling.lane import Lane
from lego_serve.core.scheduling.lora_mode import (
    AdapterRates,
    AdapterSet,
    LoraLane,
    LoraMode,
    allowed_mode,
    grouped_extra_s,
    patching_pays,
)
from lego_serve.core.scheduling.ordering import fifo

WORK = StepWork(100, 10_000)
RATES = Rates(row_s=1e-5, pair_s=0.0, constant_s=1e-3)
A, B = AdapterSet("a", 1000, 10_000), AdapterSet("b", 1000, 10_000)
CHEAP_SWAP = AdapterRates(product_s=1e-9, set_s=1e-4, touch_s=1e-9)
DEAR_SWAP = AdapterRates(product_s=1e-10, set_s=1e-6, touch_s=1e-5)
sets = st.sampled_from([None, A, B, AdapterSet("c", 50, 10), AdapterSet("d", 10**6, 10**6)])


def lane(key: str, adapters: AdapterSet | None, steps: int = 4) -> Lane:
    """A lane of one set throughout."""
    return Lane(key, (WORK,) * steps, 0.0, adapters=(adapters,) * steps)


def batcher(mode: LoraMode, rates: AdapterRates, *lanes: Lane) -> StepBatcher:
    """A batcher that has these lanes."""
    made = StepBatcher(fifo, StepLimits(max_rows=10_000), RATES, mode, rates)
    for each in lanes:
        made.add(each)
    return made


def test_one_set_for_all_is_patched_where_a_swap_is_soon_paid_back() -> None:
    """And where it is there already in any case."""
    lanes = [LoraLane(A, WORK, 20)] * 8
    assert patching_pays(lanes, None, RATES, CHEAP_SWAP)
    assert not patching_pays(lanes, None, RATES, DEAR_SWAP)
    assert patching_pays(lanes, "a", RATES, DEAR_SWAP)


def test_many_sets_are_grouped() -> None:
    """One after another they would lose what a batch gains."""
    lanes = [LoraLane(AdapterSet(i, 1000, 10_000), WORK, 20) for i in range(8)]
    assert not patching_pays(lanes, None, RATES, CHEAP_SWAP)


@given(adapters=st.lists(sets, min_size=1, max_size=8), steps=st.integers(1, 50))
def test_what_adapters_add_is_never_less_than_nothing(adapters: list[AdapterSet | None], steps: int) -> None:
    """And lanes without any add nothing."""
    lanes = [LoraLane(each, WORK, steps) for each in adapters]
    extra_s = grouped_extra_s(lanes, CHEAP_SWAP)
    assert extra_s >= 0
    assert (extra_s == 0) == all(each is None for each in adapters)
    if extra_s == 0:
        assert not patching_pays(lanes, None, RATES, CHEAP_SWAP)


@given(adapters=st.lists(sets, min_size=1, max_size=8), mode=st.sampled_from(LoraMode), cheap=st.booleans())
def test_every_lane_ends_and_a_patched_step_has_one_set(
    adapters: list[AdapterSet | None], mode: LoraMode, cheap: bool
) -> None:
    """In whatever mode, and every plan keeps the lane that is first in order."""
    made = batcher(mode, CHEAP_SWAP if cheap else DEAR_SWAP, *(lane(str(i), each) for i, each in enumerate(adapters)))
    sets_by_lane, left = dict(enumerate(adapters)), set(map(str, range(len(adapters))))
    for _ in range(4 * len(adapters)):
        plan = made.plan(0.0)
        if plan is None:
            break
        made.check()
        assert min(left, key=int) in plan.keys
        if plan.patched is not None:
            assert {sets_by_lane[int(key)] for key in plan.keys} == {plan.patched}
        left -= {each.key for each in made.commit(plan, 0.0, 0.01)}
    assert not left


def test_grouped_lanes_of_all_sets_run_together() -> None:
    """With what they are predicted to add."""
    plan = batcher(LoraMode.GROUPED, CHEAP_SWAP, lane("1", A), lane("2", None), lane("3", B)).plan(0.0)
    assert plan is not None
    assert (plan.keys, plan.patched) == (("1", "2", "3"), None)
    assert plan.extra_s == pytest.approx(2 * (1e-4 + 1000 * 100 * 1e-9))


def test_a_patched_plan_takes_the_lanes_of_the_first_ones_set() -> None:
    """Those in between wait; a swap is counted once."""
    made = batcher(LoraMode.PATCHED, CHEAP_SWAP, lane("1", A), lane("2", None), lane("3", B), lane("4", A))
    plan = made.plan(0.0)
    assert plan is not None
    assert (plan.keys, plan.patched, plan.extra_s) == (("1", "4"), A, CHEAP_SWAP.swap_s(A))
    made.commit(plan, 0.0, 0.01)
    again = made.plan(0.0)
    assert again is not None
    assert (again.keys, again.extra_s) == (("1", "4"), 0.0)


@pytest.mark.parametrize("mode", LoraMode)
def test_where_bits_must_not_depend_on_batch_mates_the_way_is_fixed(mode: LoraMode) -> None:
    """The choice by cost looks at the whole batch; a way that was asked for stays."""
    assert allowed_mode(mode, batch_invariant=False) is mode
    assert allowed_mode(mode, batch_invariant=True) is (LoraMode.GROUPED if mode is LoraMode.AUTO else mode)


def test_lanes_get_other_adapters_from_their_next_step_on() -> None:
    """As when one arrives late."""
    made = batcher(LoraMode.GROUPED, CHEAP_SWAP, lane("1", None))
    assert made.plan(0.0) == made.plan(0.0)
    made.set_adapters("1", (A,) * 4)
    plan = made.plan(0.0)
    assert plan is not None
    assert plan.extra_s > 0


@pytest.mark.parametrize("mode", LoraMode)
def test_where_memory_was_too_short_to_patch_sets_are_grouped_for_a_while(mode: LoraMode) -> None:
    """In any mode, lanes of all sets together; then patching is tried again."""
    made = batcher(mode, CHEAP_SWAP, *(lane(key, A, 2 * RELAX_STEPS) for key in "1234"), lane("5", B, 2 * RELAX_STEPS))
    first = made.plan(0.0)
    made.group_adapters()
    for _ in range(RELAX_STEPS):
        plan = made.plan(0.0)
        assert plan is not None
        assert (plan.keys, plan.patched) == (tuple("12345"), None)
        assert plan.extra_s > 0
        made.commit(plan, 0.0, 0.01, typical=False)
    again = made.plan(0.0)
    assert again is not None
    assert first is not None
    assert again.patched == first.patched
