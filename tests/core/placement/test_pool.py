"""Jobs on the replicas of a pool: late binding, wait or load by predicted ends, honest answers."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.placement.pool import Pool
from lego_serve.core.placement.pool_jobs import PoolRule, Steal
from tests.support.pools import A, B, filled, job, pool


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
        st.tuples(st.just("aside"), st.sets(st.sampled_from(["one", "two", "three"]))),
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
    taken, aside = set[str](), set[str]()
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
        elif kind == "aside":
            aside = rest[0]
            made.set_aside(aside)
        elif kind == "progressed":
            made.progressed(f"job {rest[0]}", rest[1])
            taken |= {f"job {rest[0]}"} & jobs  # it has begun
        else:
            there = set(rest[0])
            made.report({name: ("a",) if name == "one" else () for name in sorted(there)})
        made.bind(now)
        check_steals(made, jobs, taken, now)
        placed = {name: made.replica_of(name) for name in jobs}
        assert set(placed.values()) - {None} <= there - aside
        assert made.has_replicas == bool(there - aside)
        waits = [name for name, where in placed.items() if where is None]
        assert made.waiting == len(waits)
        if there - aside:
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
