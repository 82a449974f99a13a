"""Jobs on the replicas of a pool: late binding, wait or load by predicted ends, honest answers."""

import random
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.placement.pool import PROMISE_S, Pool, PoolJob, PoolRule, Steal
from tests.support.plain_pool import PlainPool

A, B = frozenset({"a"}), frozenset({"b"})


def job(number: int, seconds: float = 1.0, models: frozenset[str] = A, deadline_s: float = float("inf")) -> PoolJob:
    """A job of a second."""
    return PoolJob(f"job {number}", seconds, models, deadline_s)


def pool(rule: PoolRule | None = None, **resident: tuple[str, ...]) -> Pool:
    """A pool whose replicas hold these models."""
    made = Pool(rule)
    made.report(resident)
    return made


def test_a_job_goes_where_it_ends_first() -> None:
    """Where its model is, as long as waiting there is shorter than loading it elsewhere."""
    two = pool(one=("a",), other=("b",))
    two.loaded("a", 2.5)
    placed = dict(two.add(job(0), 0.0)) | dict(two.add(job(1), 0.0)) | dict(two.add(job(2), 0.0))
    assert placed == {"job 0": "one", "job 1": "one", "job 2": "one"}  # the third ends at 3.0 there, at 3.5 elsewhere
    assert two.add(job(3), 0.0) == [("job 3", "other")]


def test_what_one_job_loads_the_next_finds_there() -> None:
    """A second load of the same model is not begun elsewhere."""
    two = pool(one=(), other=())
    two.loaded("a", 5.0)
    [(_, first)] = two.add(job(0, 0.5), 0.0)
    assert two.add(job(1, 0.5), 0.0) == [("job 1", first)]


def test_a_replica_gets_no_more_than_it_can_begin_soon_and_the_rest_goes_to_whoever_is_free_first() -> None:
    """What is unbound belongs to nobody."""
    one = pool(PoolRule(ahead=1, ahead_s=0.0), one=("a",))
    assert one.add(job(0), 0.0) == [("job 0", "one")]
    assert one.add(job(1), 0.0) == []
    one.report({"one": ("a",), "other": ("a",)})
    assert one.bind(0.0) == [("job 1", "other")]


def test_the_job_with_the_nearest_deadline_is_bound_first() -> None:
    """Whoever came first."""
    one = pool(PoolRule(ahead=1, ahead_s=0.0), one=("a",))
    one.add(job(0, deadline_s=2.0), 0.0)
    one.add(job(1, deadline_s=50.0), 0.0)
    one.add(job(2, deadline_s=9.0), 0.0)
    assert one.end("job 0", 1.0) == [("job 2", "one")]


def test_jobs_of_a_replica_that_is_gone_are_bound_anew() -> None:
    """And events about it change nothing any more."""
    two = pool(one=("a",), other=())
    assert two.add(job(0), 0.0) == [("job 0", "one")]
    two.left(["one"])
    assert two.replica_of("job 0") is None
    assert two.bind(0.0) == [("job 0", "other")]
    two.left(["one", "nobody"])
    two.progressed("gone", 1.0)
    assert two.end("gone", 0.0) == []


def filled() -> Pool:
    """Two replicas with three jobs of a second each, of which the second has ended its own."""
    two = pool(PoolRule(move_s=0.3), one=("a",), other=("a",))
    for number in range(6):
        two.add(job(number), 0.0)
    for number in (1, 3, 5):
        two.end(f"job {number}", 1.0)
    return two


def test_a_replica_without_work_takes_the_most_urgent_job_that_another_has_not_begun() -> None:
    """It ends a second sooner there; one that has begun stays, and so does the last job of a replica."""
    two = filled()
    assert {two.replica_of(f"job {number}") for number in (0, 2, 4)} == {"one"}
    two.progressed("job 0", 0.5)
    assert two.steal(1.0) == [Steal("job 2", "one", "other", 0.5)]
    assert two.replica_of("job 2") == "other"
    assert two.steal(1.0) == []
    two.end("job 2", 2.0)
    two.progressed("job 4", 0.9)
    assert two.steal(2.0) == []


def test_a_job_is_taken_only_where_it_ends_sooner_with_its_loads() -> None:
    """A model that takes longer to load than the wait is stays where it is."""
    two = pool(one=("a",))
    for number in range(3):
        two.add(job(number), 0.0)
    two.progressed("job 0", 1.0)
    two.loaded("a", 5.0)
    two.report({"one": ("a",), "other": ()})
    assert two.steal(0.0) == []
    two.loaded("a", 0.5)
    assert [each.job for each in two.steal(0.0)] == ["job 1"]


def test_a_job_is_taken_once_at_the_most() -> None:
    """Whoever is idle next leaves it where it is."""
    two = pool(one=("a",))
    for number in range(3):
        two.add(job(number), 0.0)
    two.progressed("job 0", 1.0)
    two.report({"one": ("a",), "other": ("a",)})
    [first] = two.steal(0.0)
    two.add(job(8), 0.0)
    two.report({"one": ("a",), "other": ("a",), "third": ("a",)})
    assert first.job not in {each.job for each in two.steal(0.0)}


def test_a_newcomer_hears_when_it_ends_and_behind_how_many() -> None:
    """What has been done of the others is not waited for."""
    one = pool(one=("a",))
    one.add(job(0, 4.0), 0.0)
    heard = one.forecast(job(1), 0.0)
    assert heard is not None
    assert (heard.eta_s, heard.place, heard.retry_after_s) == (5.0, 1, None)
    one.progressed("job 0", 1.5)
    heard = one.forecast(job(1), 0.0)
    assert heard is not None
    assert heard.eta_s == 2.5
    assert Pool().forecast(job(0), 0.0) is None  # nobody is known


def test_who_would_be_late_or_make_another_late_hears_when_to_come_again() -> None:
    """A job that was late before does not keep others out."""
    one = pool(one=("a",))
    one.add(job(0, 4.0, deadline_s=4.2), 0.0)
    late = one.forecast(job(1, deadline_s=4.5), 0.0)
    assert late is not None
    assert (late.eta_s, late.retry_after_s) == (5.0, 0.5)
    hasty = one.forecast(job(3, 1.0, deadline_s=3.0), 0.0)
    assert hasty is not None
    assert hasty.retry_after_s is not None
    hopeless = pool(one=("a",))
    hopeless.add(job(0, 4.0, deadline_s=1.0), 0.0)
    heard = hopeless.forecast(job(1), 0.0)
    assert heard is not None
    assert heard.retry_after_s is None


events = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 30), st.floats(0.01, 5.0), st.sampled_from([A, B, A | B])),
        st.tuples(st.just("end"), st.integers(0, 30)),
        st.tuples(st.just("left"), st.sampled_from(["one", "two", "three"])),
        st.tuples(st.just("report"), st.sets(st.sampled_from(["one", "two", "three"]))),
        st.tuples(st.just("progressed"), st.integers(0, 30), st.floats(0.0, 5.0)),
    ),
    max_size=60,
)


@given(events, st.integers(1, 3), st.floats(0.0, 2.0))
def test_whatever_happens_jobs_are_on_replicas_that_are_there_and_none_waits_beside_an_idle_one(
    happened: list[tuple], ahead: int, ahead_s: float
) -> None:
    """Reports may be lost or late, replicas come and go, jobs end or are heard of twice."""
    made, there, jobs = Pool(PoolRule(ahead, ahead_s)), set[str](), set[str]()
    taken: set[str] = set()
    for now, (kind, *rest) in enumerate(happened):
        if kind == "add":
            made.add(job(rest[0], rest[1], rest[2]), now)
            jobs.add(f"job {rest[0]}")
        elif kind == "end":
            made.end(f"job {rest[0]}", now)
            jobs.discard(f"job {rest[0]}")
            taken.discard(f"job {rest[0]}")
        elif kind == "left":
            made.left([rest[0]])
            there.discard(rest[0])
        elif kind == "progressed":
            made.progressed(f"job {rest[0]}", rest[1])
            taken |= {f"job {rest[0]}"} & jobs  # it has begun
        else:
            there = set(rest[0])
            made.report({name: ("a",) if name == "one" else () for name in sorted(there)})
        made.bind(now)
        check_steals(made, jobs, taken, now)
        placed = {name: made.replica_of(name) for name in jobs}
        assert set(placed.values()) - {None} <= there
        waits = [name for name, where in placed.items() if where is None]
        assert made.waiting == len(waits)
        if there:
            busy = {where for where in placed.values() if where is not None}
            assert not waits or busy


def check_steals(made: Pool, jobs: set[str], taken: set[str], now: float) -> None:
    """Each goes from a replica that keeps others to one that had none, once, and only where nothing was begun."""
    before = {name: made.replica_of(name) for name in jobs}
    for steal in made.steal(now):
        assert before[steal.job] == steal.before != steal.after == made.replica_of(steal.job)
        assert steal.after not in before.values()
        assert steal.job not in taken
        assert steal.sooner_s > 0.3
        taken.add(steal.job)
    after = {name: made.replica_of(name) for name in jobs}
    assert set(before.values()) <= set(after.values())
    assert {name for name in jobs if before[name] != after[name]} <= taken


@given(st.integers(0, 40), st.integers(0, 40))
def test_the_same_events_give_the_same_places(first: int, second: int) -> None:
    """Whatever ran before in the process."""
    places = []
    for _ in range(2):
        made = pool(one=("a",), two=("b",))
        made.add(job(first), 0.0)
        made.add(replace(job(second, models=B), id=f"b {second}"), 0.0)
        places.append((made.replica_of(f"job {first}"), made.replica_of(f"b {second}")))
    assert places[0] == places[1]


NAMES, MODELS = ("one", "two", "three", "four"), ("a", "b", "c")
SECONDS = st.one_of(st.integers(0, 4).map(float), st.floats(0.0, 5.0))  # whole ones, so that some are equal
SETS = st.frozensets(st.sampled_from(MODELS))
happenings = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 40), SECONDS, SETS, SECONDS | st.just(float("inf"))),
        st.tuples(st.just("forecast"), st.just(99), SECONDS, SETS, SECONDS | st.just(float("inf"))),
        st.tuples(st.just("end"), st.integers(0, 40)),
        st.tuples(st.just("progressed"), st.integers(0, 40), SECONDS),
        st.tuples(st.just("report"), st.dictionaries(st.sampled_from(NAMES), SETS)),
        st.tuples(st.just("left"), st.sampled_from(NAMES)),
        st.tuples(st.just("loaded"), st.sampled_from(MODELS), SECONDS),
        st.tuples(
            st.just("steal"),
        ),
    ),
    max_size=60,
)


@given(happenings, st.integers(1, 3), st.floats(0.0, 2.0))
def test_what_is_decided_is_what_the_plain_definition_says(happened: list[tuple], ahead: int, ahead_s: float) -> None:
    """Event by event: where jobs go, which are taken, and what newcomers hear."""
    made, plain = Pool(PoolRule(ahead, ahead_s)), PlainPool(PoolRule(ahead, ahead_s))
    for number, (kind, *rest) in enumerate(happened):
        now = 0.25 * number
        heard = []
        for each in (made, plain):
            if kind == "add":
                heard.append(each.add(job(rest[0], rest[1], rest[2], now + rest[3]), now))
            elif kind == "forecast":
                heard.append(each.forecast(job(rest[0], rest[1], rest[2], now + rest[3]), now))
            elif kind == "end":
                heard.append(each.end(f"job {rest[0]}", now))
            elif kind == "progressed":
                heard.append(each.progressed(f"job {rest[0]}", rest[1]))
            elif kind == "report":
                heard.append(each.report(rest[0]))
            elif kind == "left":
                heard.append(each.left(rest))
            elif kind == "loaded":
                heard.append(each.loaded(*rest))
            else:
                heard.append((each.bind(now), each.steal(now)))
        assert heard[0] == heard[1]


def crowd(kind: type[Pool], workers: int, waiting: int) -> Pool:
    """A pool with so many jobs beyond what its workers have ahead; three of eight models are on each worker."""
    rng, models = random.Random(1), [f"m{number}" for number in range(8)]
    made = kind()
    made.report({f"w{number:02d}": rng.sample(models, 3) for number in range(workers)})
    for number in range(8 * workers + waiting):
        made.take(job(number, 1.0 + rng.random(), frozenset(rng.sample(models, 2)), 600.0 + rng.random()), 0.0)
    made.bind(0.0)
    return made


def processor_s(call: Callable[[], object]) -> float:
    """The least of a few times that a call takes."""
    taken = []
    for _ in range(5):
        started = time.process_time()
        call()
        taken.append(time.process_time() - started)
    return min(taken)


@pytest.mark.long
def test_a_thousand_waiting_jobs_are_placed_ten_times_as_fast_as_by_the_plain_definition() -> None:
    """On 64 workers, where nothing has room any more; and a newcomer hears its end so much sooner."""
    made, plain = crowd(Pool, 64, 1000), crowd(PlainPool, 64, 1000)
    assert made.waiting == plain.waiting >= 900
    assert made.bind(0.0) == plain.bind(0.0) == []
    assert 10.0 * processor_s(lambda: made.bind(0.0)) < processor_s(lambda: plain.bind(0.0))
    newcomer = job(9999, deadline_s=601.0)
    assert made.forecast(newcomer, 0.0) == plain.forecast(newcomer, 0.0)
    assert 10.0 * processor_s(lambda: made.forecast(newcomer, 0.0)) < processor_s(lambda: plain.forecast(newcomer, 0.0))


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
def test_who_asks_in_a_burst_hears_what_he_would_if_each_had_begun_at_once(
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
