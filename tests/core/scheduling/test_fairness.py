"""Tenants take turns by the work they have had: nobody starves, nobody saves up, and one alone notices nothing."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.costs import Rates, StepWork
from lego_serve.core.scheduling.batching import StepBatcher, StepLimits
from lego_serve.core.scheduling.fairness import SHORT_STEP, FairShares, step_part
from lego_serve.core.scheduling.lane import Lane
from lego_serve.core.scheduling.ordering import LANE_POLICIES, LanePolicy, fifo, least_slack
from tests.support.engine.batched_lanes import STEP_S, batcher_of, lane, plan_of

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


def run(batcher: StepBatcher, steps: int) -> list[tuple[str, ...]]:
    """Run so many steps; the keys of each."""
    keys = []
    for number in range(steps):
        plan = batcher.plan(number * STEP_S)
        if plan is None:
            break
        batcher.commit(plan, number * STEP_S, (number + 1) * STEP_S)
        keys.append(plan.keys)
    return keys


def test_a_single_lane_runs_beside_a_crowd_that_came_before_it() -> None:
    """In the very next step, and in each one until it is done."""
    batcher = batcher_of(fifo, 40)
    for number in range(40):
        batcher.add(lane(f"alpha{number}", steps=100, tenant="alpha"))
    run(batcher, 3)
    batcher.add(lane("beta", steps=20, added_s=1.0, tenant="beta"))
    assert all("beta" in keys for keys in run(batcher, 20))


def test_a_small_lane_does_not_wait_for_a_job_of_large_ones() -> None:
    """Where a large lane fills a step alone, small ones of another tenant share in what it leaves or take turns."""
    batcher = batcher_of(least_slack, 100)
    for number in range(8):
        batcher.add(lane(f"large{number}", steps=100, rows=100, tenant="alpha"))
    run(batcher, 5)
    batcher.add(lane("small", steps=4, rows=10, added_s=1.0, tenant="beta"))
    steps = run(batcher, 8)
    assert [keys for keys in steps if "small" in keys] == [("small",)] * 4
    assert steps.index(("small",)) == 0


@pytest.mark.parametrize(("weight", "part"), [(1.0, 0.5), (3.0, 0.75), (0.25, 0.2)])
def test_steps_are_shared_by_weight(weight: float, part: float) -> None:
    """Where each step has room for one lane."""
    batcher = batcher_of(fifo, 10)
    for number in range(3):
        batcher.add(lane(f"alpha{number}", steps=1000, tenant="alpha"))
        batcher.add(lane(f"beta{number}", steps=1000, weight=weight, tenant="beta"))
    counts = Counter(keys[0][:4] for keys in run(batcher, 400))
    assert counts["beta"] / 400 == pytest.approx(part, abs=0.02)


def test_rows_are_shared_and_not_lanes() -> None:
    """Tenants with large and with small lanes get as many rows, not as many steps."""
    batcher = batcher_of(fifo, 50)
    for number in range(5):
        batcher.add(lane(f"large{number}", steps=1000, rows=50, tenant="alpha"))
        batcher.add(lane(f"small{number}", steps=1000, rows=10, tenant="beta"))
    rows: Counter[str] = Counter()
    for keys in run(batcher, 300):
        for key in keys:
            rows["alpha" if key.startswith("large") else "beta"] += 50 if key.startswith("large") else 10
    assert rows["alpha"] == pytest.approx(rows["beta"], rel=0.1)


def test_a_tenant_whose_lanes_are_paused_leaves_no_step_unused_and_saves_nothing_up() -> None:
    """The other goes on alone; afterwards they take turns from where they are."""
    batcher = batcher_of(fifo, 10)
    batcher.add(lane("alpha", steps=500, tenant="alpha"))
    batcher.add(lane("beta", steps=500, tenant="beta"))
    batcher.pause("beta")
    assert run(batcher, 100) == [("alpha",)] * 100
    batcher.resume("beta")
    counts = Counter(keys[0] for keys in run(batcher, 100))
    assert abs(counts["alpha"] - counts["beta"]) <= 2


def test_a_suspect_of_one_tenant_runs_alone_when_its_turn_comes() -> None:
    """It waits while others come first, and shares its step with nobody."""
    batcher = batcher_of(fifo, 100)
    for number in range(3):
        batcher.add(lane(f"alpha{number}", steps=10, tenant="alpha"))
    batcher.add(lane("suspect", steps=2, suspect_until=2, tenant="beta"))
    steps = run(batcher, 5)
    assert steps.count(("suspect",)) == 2
    assert all(len(keys) == 1 for keys in steps if "suspect" in keys)


LANES = st.lists(
    st.tuples(st.integers(1, 6), st.integers(1, 30), st.floats(0, 5), st.none() | st.floats(0, 30)), max_size=12
)


@pytest.mark.parametrize("policy", LANE_POLICIES.values(), ids=LANE_POLICIES.keys())
@given(lanes=LANES, max_rows=st.integers(10, 80))
def test_one_tenant_alone_runs_in_the_policys_own_order(policy: LanePolicy, lanes, max_rows: int) -> None:
    """Step by step as if there were no tenants, whatever its name, and after another tenant has left."""
    plain, named = batcher_of(policy, max_rows), batcher_of(policy, max_rows)
    for batcher, tenant in ((plain, "default"), (named, "gone")):
        batcher.add(lane("before", steps=1, tenant=tenant))
        run(batcher, 1)
    for number, (steps, rows, added_s, deadline_s) in enumerate(lanes):
        for batcher, tenant in ((plain, "default"), (named, "alpha")):
            batcher.add(lane(f"l{number}", steps, rows, added_s, deadline_s=deadline_s, tenant=tenant))
    assert run(plain, 200) == run(named, 200)


@given(
    lanes=st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 5), st.integers(1, 40)), min_size=1, max_size=15),
    max_rows=st.integers(10, 80),
)
def test_every_lane_of_every_tenant_ends_and_no_step_is_empty(lanes, max_rows: int) -> None:
    """In no more steps than their number together: work is never left lying."""
    batcher = batcher_of(fifo, max_rows)
    for number, (tenant, steps, rows) in enumerate(lanes):
        batcher.add(lane(f"l{number}", steps, rows, tenant=tenant))
    ran = Counter(key for keys in run(batcher, 1000) for key in keys)
    assert ran == {f"l{number}": steps for number, (_, steps, _) in enumerate(lanes)}
    assert batcher.lanes == 0


def test_planning_for_tenants_changes_nothing() -> None:
    """Two plans in a row are the same; a committed one moves the turn on."""
    batcher = batcher_of(fifo, 10)
    batcher.add(lane("alpha", steps=3, tenant="alpha"))
    batcher.add(lane("beta", steps=3, tenant="beta"))
    first = batcher.plan(0.0)
    assert first == batcher.plan(0.0) == plan_of(("alpha",), (0,), 10)
    assert first is not None
    batcher.commit(first, 0.0, STEP_S)
    assert batcher.plan(STEP_S) == plan_of(("beta",), (0,), 10)


@pytest.mark.parametrize(
    ("rows", "part"),
    [({"a": 9000}, 1.0), ({}, 1.0), ({"a": 9000, "b": 499}, SHORT_STEP), ({"a": 500, "b": 500}, 1.0)],
)
def test_steps_are_short_while_a_tenant_cannot_use_its_part_of_a_full_one(rows: dict[str, int], part: float) -> None:
    """A full step has a thousand rows here."""
    assert step_part(rows, 1000.0) == part


def crowd_and_one(limits: StepLimits) -> tuple[float, float]:
    """Seconds of a lane of beta beside forty lanes of alpha over those alone, and the lanes that end in a second."""
    rates, work = Rates(row_s=2e-5, constant_s=4e-3), StepWork(136, 9000)
    batcher, now, ended, betas = StepBatcher(least_slack, limits, rates), 0.0, 0, list[float]()

    def add(tenant: str, key: str) -> None:
        batcher.add(Lane(key, (work,) * 20, now, tenant=tenant))

    for number in range(40):
        add("alpha", f"alpha{number}")
    add("beta", "beta")
    while now < 30.0:
        plan = batcher.plan(now)
        assert plan is not None
        started_s, now = now, now + rates.seconds(plan.work.rows, plan.work.pairs)
        for done in batcher.commit(plan, started_s, now):
            ended += 1
            if done.tenant == "beta":
                betas.append(now - done.added_s)
            add(done.tenant, f"later{ended}")
    return max(betas) / (20 * rates.seconds(work.rows, work.pairs)), ended / now


def test_a_client_beside_a_crowd_is_a_few_times_slower_and_the_crowd_little() -> None:
    """At most three times its time alone, at no more than a fifth of the throughput."""
    full_s = StepLimits().seconds(Rates(row_s=2e-5, constant_s=4e-3))
    ratio, pace = crowd_and_one(StepLimits())
    full_ratio, full_pace = crowd_and_one(StepLimits(max_step_s=full_s))  # a length that is given is kept to
    assert ratio <= 3.0 < full_ratio
    assert pace >= 0.8 * full_pace
