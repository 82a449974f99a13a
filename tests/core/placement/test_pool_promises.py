"""A job that a pool has admitted has its place from the answer on, and no longer than it is needed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.placement.pool import PROMISE_S, Pool
from lego_serve.core.placement.pool_jobs import PoolJob
from tests.support.pools import NAMES, SECONDS, SETS, A, filled, job, pool


def is_in_time(made: Pool, wanted: PoolJob, now: float) -> bool:
    """Whether an offer is admitted."""
    heard = made.offer(wanted, now)
    return heard is not None and heard.retry_after_s is None


def test_of_many_who_ask_at_once_only_those_are_admitted_who_fit_together() -> None:
    """Two workers end four jobs of a second in two seconds; what then begins ends when it was told."""
    two = pool(one=("a",), other=("a",))
    heard = [two.offer(job(number, deadline_s=2.0), 0.0) for number in range(6)]
    assert [each.eta_s for each in heard if each is not None and each.retry_after_s is None] == [1.0, 1.0, 2.0, 2.0]
    assert two.waiting == 0
    for number in range(4):
        assert two.replica_of(f"job {number}") is None
        two.add(job(number, deadline_s=2.0), 0.0)
    assert sorted(two.replica_of(f"job {number}") or "" for number in range(4)) == ["one", "one", "other", "other"]


def test_a_place_is_given_back_by_who_withdraws_or_is_not_heard_of_again() -> None:
    """Once; a job that has begun keeps its own."""
    one = pool(one=("a",))
    assert is_in_time(one, job(0, deadline_s=1.0), 0.0)
    assert not is_in_time(one, job(1, deadline_s=1.0), 0.0)
    assert one.withdraw("job 0")
    assert not one.withdraw("job 0")
    assert is_in_time(one, job(1, deadline_s=1.0), 0.0)
    assert not is_in_time(one, job(2, deadline_s=PROMISE_S), PROMISE_S)
    assert is_in_time(one, job(2, deadline_s=PROMISE_S + 1.5), PROMISE_S + 0.1)
    assert one.add(job(2, deadline_s=PROMISE_S + 1.5), PROMISE_S + 0.1) == [("job 2", "one")]
    assert not one.withdraw("job 2")
    assert one.replica_of("job 2") == "one"


def test_a_replica_that_is_promised_takes_no_job_from_another() -> None:
    """Who was admitted for it finds it as it was."""
    for is_promised in (False, True):
        two = filled()
        if is_promised:
            assert is_in_time(two, job(7, deadline_s=2.0), 1.0)
        assert bool(two.steal(1.0)) is not is_promised


@given(
    st.lists(st.tuples(SECONDS, SETS, SECONDS), max_size=12),
    st.dictionaries(st.sampled_from(NAMES), SETS, min_size=1),
    st.permutations(range(12)),
)
def test_who_asks_in_a_burst_hears_what_it_would_if_each_had_begun_at_once(
    asked: list[tuple], resident: dict[str, frozenset[str]], order: list[int]
) -> None:
    """And in whatever order those who were admitted begin, a newcomer hears the same before and after."""
    burst, begun = pool(**resident), pool(**resident)  # type: ignore[arg-type]
    jobs = [job(number, seconds, models, due_s) for number, (seconds, models, due_s) in enumerate(asked)]
    admitted = set()
    for each in jobs:
        heard = begun.forecast(each, 0.0)
        assert burst.offer(each, 0.0) == heard
        if heard is not None and heard.retry_after_s is None:
            begun.take(each, 0.0)
            admitted.add(each.id)
    later = job(99, 1.0, A, 3.0)
    assert burst.forecast(later, 0.0) == begun.forecast(later, 0.0)
    for each in [jobs[number] for number in order if number < len(jobs)]:
        if each.id in admitted:
            burst.take(each, 0.0)
    assert burst.waiting == begun.waiting == len(admitted)
    ends = [burst.forecast(job(98, seconds), 0.0) for seconds in (0.0, 1.0, 5.0)]
    assert ends == [begun.forecast(job(98, seconds), 0.0) for seconds in (0.0, 1.0, 5.0)]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["offer", "begin", "withdraw", "end", "left", "report", "steal"]),
            st.integers(0, 8),
            SECONDS,
            st.floats(0.0, 4.0),
        ),
        max_size=50,
    )
)
def test_no_place_is_kept_for_longer_than_it_is_needed(happened: list[tuple]) -> None:
    """Jobs in flight and promises count, each once, and nothing else does: a pool of these alone answers the same."""
    made, now = pool(one=("a",), two=("a",)), 0.0
    begun, promised = dict[str, PoolJob](), dict[str, tuple[PoolJob, float]]()
    for kind, number, seconds, passed_s in happened:
        now += passed_s
        promised = {name: each for name, each in promised.items() if now <= each[1]}
        wanted = job(number, seconds, deadline_s=now + 6.0)
        if kind == "offer":
            promised.pop(wanted.id, None)
            if is_in_time(made, wanted, now) and wanted.id not in begun:
                promised[wanted.id] = wanted, now + PROMISE_S
        elif kind == "begin":
            promised.pop(wanted.id, None)
            made.add(wanted, now)
            begun.setdefault(wanted.id, wanted)
        elif kind == "withdraw":
            made.bind(now)
            assert made.withdraw(wanted.id) == (promised.pop(wanted.id, None) is not None)
        elif kind == "end":
            made.end(wanted.id, now)
            for those in (begun, promised):
                those.pop(wanted.id, None)
        elif kind == "left":
            made.left(["one"])
        elif kind == "report":
            made.report({"one": A, "two": A})
        else:
            made.steal(now)
        made.bind(now)
        counted = [*begun.values(), *(each for each, _ in promised.values())]
        assert made.work_s * max(1, len(made._replicas)) == pytest.approx(sum(each.seconds for each in counted))
        assert made.waiting == sum(made.replica_of(name) is None for name in begun)
        assert all(made.replica_of(name) is None for name in promised)
    now += PROMISE_S + 1.0
    made.report({"one": A, "two": A})
    for name in begun:
        made.end(name, now)
    assert made.forecast(job(99), now) == pool(one=("a",), two=("a",)).forecast(job(99), now)
