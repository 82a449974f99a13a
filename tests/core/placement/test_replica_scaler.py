"""How many replicas nodes have: bounds and budget hold whatever happens, and what changes says why."""

import math

from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.placement.pool_jobs import PoolRule
from lego_serve.core.placement.replica_scaler import RULE, WORKER_FULL, ReplicaLook, ReplicaScaler
from lego_serve.core.scheduling.autoscaling import ReplicaBounds

ONE_TO_FOUR = ReplicaBounds(1, 4)
FULL = 8.0
DRAIN_S = RULE.drain_s
FEW = st.integers(1, 6)


def played(scaler: ReplicaScaler, ongoing: float, seconds: int, sizes: dict[str, int], start: int = 0) -> list[str]:
    """Look at all nodes once a second, each with so many requests for each replica's work; return why they changed."""
    whys = []
    for second in range(start, start + seconds):
        for name in sizes:
            load = ongoing if name == "busy" else 0.0
            decision = scaler.look(name, ReplicaLook(ONE_TO_FOUR, sizes[name], load, 1.0), float(second))
            if decision.replicas != sizes[name]:
                whys.append(f"{name} {decision.replicas}: {decision.reason}")
                sizes[name] = decision.replicas
    return whys


def test_a_node_grows_when_its_requests_have_wanted_it_for_a_while_and_shrinks_later() -> None:
    """Three replicas' worth of requests in hand; then none."""
    sizes = {"busy": 1}
    scaler = ReplicaScaler()
    whys = played(scaler, 3 * FULL, 600, sizes)
    assert sizes == {"busy": 3}
    assert whys[0].startswith("busy 2: work for ")
    assert " asks for 2" in whys[0]
    whys = played(scaler, 0.0, 900, sizes, 600)
    assert sizes == {"busy": 1}
    assert len(whys) <= 2


def test_a_burst_of_seconds_moves_nothing() -> None:
    """It is over before it has been wanted for long."""
    sizes, scaler = {"busy": 1}, ReplicaScaler()
    assert played(scaler, 4 * FULL, 10, sizes) == []
    assert played(scaler, 0.0, 100, sizes, 10) == []


def test_what_grows_waits_for_what_shrinks_and_for_its_end() -> None:
    """The budget is used up by a node that is idle: that one shrinks first, and drains for half a minute."""
    sizes, scaler = {"busy": 1, "idle": 3}, ReplicaScaler(4.0)
    changed: dict[str, int] = {}
    for second in range(600):
        if played(scaler, 2 * FULL, 1, sizes, second):
            for name in sizes:
                changed.setdefault(f"{name} {sizes[name]}", second)
    assert sizes["busy"] == 2
    assert changed["busy 2"] >= changed["idle 1"] + 30


def test_a_pin_holds_at_once_as_far_as_the_budget_goes_and_says_so() -> None:
    """What an operator wants beyond it is told, not done."""
    scaler = ReplicaScaler(4.0)
    for second in (0.0, DRAIN_S):
        scaler.look("other", ReplicaLook(ONE_TO_FOUR, 2, 0.0, 1.0), second)
        assert scaler.look("busy", ReplicaLook(ONE_TO_FOUR, 1, 0.0, 1.0), second).replicas == 1
    pinned = scaler.look("busy", ReplicaLook(ReplicaBounds(3, 3), 1, 0.0, 1.0), DRAIN_S + 0.1)
    assert (pinned.replicas, pinned.reason) == (2, "it may have 3 to 3, of which the budget leaves 2")
    free, look = ReplicaScaler(8.0), ReplicaLook(ReplicaBounds(3, 3), 1, 0.0, 1.0)
    free.look("busy", look, 0.0)
    assert free.look("busy", look, DRAIN_S).reason == "bounds"


def test_fractions_of_a_processor_add_up() -> None:
    """Ten replicas of a tenth are one processor, to the last."""
    scaler, look = ReplicaScaler(1.0), ReplicaLook(ReplicaBounds(10, 10), 1, 0.0, 0.1)
    scaler.look("a", look, 0.0)
    assert scaler.look("a", look, DRAIN_S).replicas == 10


def test_a_scaler_that_begins_lets_nothing_grow_before_it_has_seen_all_and_what_was_stopping_is_gone() -> None:
    """As after the end of Serve's controller: of four replicas it knows one at the first look, and would add three."""
    scaler = ReplicaScaler(4.0)
    for second in range(100):
        now = 1000.0 + second
        busy = scaler.look("busy", ReplicaLook(ReplicaBounds(2, 4), 1, 9 * FULL, 1.0), now).replicas
        other = scaler.look("other", ReplicaLook(ONE_TO_FOUR, 2, 2 * FULL, 1.0), now).replicas
        assert (busy, other) == ((1 if second < DRAIN_S else 2), 2)


@given(FEW, FEW)
def test_workers_that_are_full_ask_for_another_one_though_nobody_tells_of_those_who_wait(
    current: int, most: int
) -> None:
    """Each has as many jobs as a pool binds to it, and no more is seen."""
    scaler, size = ReplicaScaler(), min(current, most)
    for second in range(900):
        look = ReplicaLook(ReplicaBounds(1, most), size, float(PoolRule().ahead * size), full=WORKER_FULL)
        size = scaler.look("shared.workers", look, float(second)).replicas
    assert size == most


@given(st.integers(0, 200), FEW)
def test_workers_follow_the_jobs_there_are_wherever_these_wait(jobs: int, most: int) -> None:
    """What a pool has no room for waits in gateways; there are workers for all of them, and one when they are done."""
    scaler, size = ReplicaScaler(), 1
    for second in range(2400):
        left = float(jobs if second < 900 else 0)
        sent = min(left, float(PoolRule().ahead * size))
        look = ReplicaLook(ReplicaBounds(1, most), size, sent, waiting=left - sent, full=WORKER_FULL)
        size = scaler.look("shared.workers", look, float(second)).replicas
        if second == 899:
            assert size == max(1, min(most, math.ceil(jobs / WORKER_FULL)))
    assert size == 1


def test_what_somebody_else_has_set_is_where_it_goes_on_from() -> None:
    """As after a redeployment, which begins with the fewest; what is only not done yet is told again."""
    scaler = ReplicaScaler()
    assert scaler.look("a", ReplicaLook(ReplicaBounds(3, 4), 1, 0.0), 0.0).replicas == 3
    assert scaler.look("a", ReplicaLook(ONE_TO_FOUR, 1, 0.0), 1.0).replicas == 3
    assert scaler.look("a", ReplicaLook(ONE_TO_FOUR, 3, 0.0), 2.0).replicas == 3
    assert scaler.look("a", ReplicaLook(ONE_TO_FOUR, 1, 0.0), 3.0).replicas == 1


LOOKS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c"]),
        st.integers(1, 3),
        st.integers(0, 5),
        st.floats(0, 100),
        st.floats(-3, 40),
    ),
    max_size=60,
)
COSTS = {"a": 1.0, "b": 0.5, "c": 2.0}


@given(LOOKS, st.floats(3.5, 12))
def test_the_budget_and_the_most_hold_whatever_is_seen(
    looks: list[tuple[str, int, int, float, float]], budget: float
) -> None:
    """Bounds that change, clocks that jump, loads of any size; nobody has fewer than one."""
    scaler, now = ReplicaScaler(budget), 0.0
    sizes = dict.fromkeys(COSTS, 1)
    for name in sizes:
        scaler.look(name, ReplicaLook(ONE_TO_FOUR, 1, 0.0, COSTS[name]), now)
    for name, least, more, ongoing, gap in looks:
        now = max(0.0, now + gap)
        bounds = ReplicaBounds(least, least + more)
        decision = scaler.look(name, ReplicaLook(bounds, sizes[name], ongoing, COSTS[name]), now)
        assert decision.reason or decision.replicas == sizes[name]
        assert 1 <= decision.replicas <= bounds.max
        sizes[name] = decision.replicas
        assert sum(sizes[each] * COSTS[each] for each in sizes) <= budget + 1e-6
