"""Whose durable job is claimed next."""

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.durable_jobs.turns import Standing, next_tenant

JOBS = st.lists(st.integers(1, 40), min_size=1, max_size=5)


@given(JOBS, st.integers(0, 8), st.integers(0, 2**32))
def test_the_kth_job_of_a_tenant_is_claimed_after_k_rounds_of_all(queued: list[int], running: int, seed: int) -> None:
    """However many others have: ``running`` jobs of the first tenant, who may wait for all others to have as many, run
    before, and end one by one in between.
    """
    chance = random.Random(seed)
    tenants = [Standing(f"tenant {number}", 0, 0) for number in range(len(queued))]
    tenants[0].running = running
    left = {each.tenant: count for each, count in zip(tenants, queued, strict=True)}
    had = Counter[str]()
    for claims in range(1, sum(queued) + 1):
        if tenants[0].running > had[tenants[0].tenant] and chance.random() < 0.5:
            tenants[0].running -= 1
        chosen = next_tenant(each for each in tenants if left[each.tenant])
        assert chosen is not None
        chosen.running, chosen.turn = chosen.running + 1, claims
        left[chosen.tenant] -= 1
        had[chosen.tenant] += 1
        assert claims <= had[chosen.tenant] * len(queued) + running or (chosen is tenants[0] and running)


@given(st.lists(st.integers(1, 4), min_size=2, max_size=4), st.integers(4, 40))
def test_places_are_shared_by_weight(weights: list[int], places: int) -> None:
    """Within a place of its part for each tenant, where all have jobs enough."""
    tenants = [Standing(f"tenant {number}", 0, 0, weight) for number, weight in enumerate(weights)]
    for claim in range(1, places + 1):
        chosen = next_tenant(tenants)
        assert chosen is not None
        chosen.running, chosen.turn = chosen.running + 1, claim
    for each in tenants:
        assert abs(each.running - places * each.weight / sum(weights)) <= len(tenants)


def test_with_one_place_tenants_take_turns() -> None:
    """Nobody's job runs when the place is free; the one whose last claim is longest ago is next."""
    tenants = [Standing(name, 0, 0) for name in "abc"]
    names = []
    for claim in range(1, 7):
        chosen = next_tenant(tenants)
        assert chosen is not None
        chosen.turn = claim
        names.append(chosen.tenant)
    assert names == list("abcabc")


def test_without_anybody_nobody_is_next() -> None:
    """The queue is empty."""
    assert next_tenant([]) is None
