"""Tenants take turns by the work they have had: nobody starves, nobody saves up, and one alone notices nothing."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.scheduling.fairness import FairShares

TENANTS = ("a", "b", "c")
Item = tuple[str, float]  # a tenant, and the work of an item divided by the tenant's weight
ITEMS = st.lists(st.tuples(st.sampled_from(TENANTS), st.floats(0.1, 10.0)), max_size=40)


def ordered(shares: FairShares, items: list[Item]) -> list[Item]:
    """The items by turns."""
    return shares.order(items, lambda item: item[0], lambda item: item[1])


def served(shares: FairShares, backlog: dict[str, float], rounds: int) -> Counter[str]:
    """How often each of some tenants, that always have an item of a cost, is first in so many rounds of one item."""
    counts: Counter[str] = Counter()
    for _ in range(rounds):
        tenant, cost = ordered(shares, list(backlog.items()))[0]
        shares.charge({tenant: cost})
        counts[tenant] += 1
    return counts


def test_tenants_take_turns_and_each_keeps_its_own_order() -> None:
    """Three of one and one of another: the other's single item is second, not last."""
    items = [("a", 1.0), ("a", 2.0), ("a", 3.0), ("b", 1.0)]
    assert ordered(FairShares(), items) == [("a", 1.0), ("b", 1.0), ("a", 2.0), ("a", 3.0)]


def test_a_large_item_counts_as_its_work() -> None:
    """Whoever had a large one waits while another has as much in small ones."""
    shares = FairShares()
    shares.charge({"a": 4.0, "b": 1.0})
    items = [("a", 1.0), *[("b", 1.0)] * 4]
    assert [tenant for tenant, _ in ordered(shares, items)] == ["b", "b", "b", "a", "b"]


def test_who_comes_back_is_first_and_has_saved_nothing_up() -> None:
    """After a thousand rounds alone for one, the other is served at once, and then they take turns."""
    shares = FairShares()
    for _ in range(1000):
        shares.charge({"a": 1.0})
    assert ordered(shares, [("a", 1.0), ("b", 1.0)])[0][0] == "b"
    counts = served(shares, {"a": 1.0, "b": 1.0}, 100)
    assert abs(counts["a"] - counts["b"]) <= 2


@given(ITEMS, st.lists(st.tuples(st.sampled_from(TENANTS), st.floats(0.1, 10.0)), max_size=10))
def test_an_order_has_every_item_once_and_a_tenants_own_in_their_order(items: list[Item], past: list[Item]) -> None:
    """Whatever was charged before."""
    shares = FairShares()
    for tenant, cost in past:
        shares.charge({tenant: cost})
    fair = ordered(shares, items)
    for tenant in TENANTS:
        own = [item for item in items if item[0] == tenant]
        assert [item for item in fair if item[0] == tenant] == own
    assert len(fair) == len(items)


@given(st.lists(st.floats(0.1, 10.0), max_size=40), st.floats(0, 100))
def test_a_single_tenants_order_stays_as_it_is(costs: list[float], past: float) -> None:
    """Item by item."""
    shares = FairShares()
    shares.charge({"a": past})
    items = [("a", cost) for cost in costs]
    assert ordered(shares, items) == items


@given(st.dictionaries(st.sampled_from(TENANTS), st.floats(0.5, 8.0), min_size=1), st.integers(50, 300))
def test_work_is_shared_to_within_one_item_of_each(costs: dict[str, float], rounds: int) -> None:
    """Tenants that always have work get as much of it, weights apart, but for one item each: nobody starves."""
    counts = served(FairShares(), costs, rounds)
    had = {tenant: counts[tenant] * cost for tenant, cost in costs.items()}
    assert sum(counts.values()) == rounds  # no turn is left out while there is work
    assert max(had.values()) - min(had.values()) <= 2 * max(costs.values())


@given(st.lists(st.sets(st.sampled_from(TENANTS), min_size=1), min_size=1, max_size=200))
def test_a_tenant_waits_for_at_most_two_rounds_of_the_others(active: list[set[str]]) -> None:
    """However they come and go, whoever has an item of cost 1 is first within as many turns."""
    shares, waits = FairShares(), Counter[str]()
    for tenants in active:
        first = ordered(shares, [(tenant, 1.0) for tenant in sorted(tenants)])[0][0]
        shares.charge({first: 1.0})
        for tenant in TENANTS:
            waits[tenant] = waits[tenant] + 1 if tenant in tenants and tenant != first else 0
        assert max(waits.values()) <= 2 * len(TENANTS)


def test_nothing_charged_changes_nothing() -> None:
    """A step whose lanes were all dropped meanwhile."""
    shares = FairShares()
    shares.charge({})
    assert shares.level("a") == 0.0
