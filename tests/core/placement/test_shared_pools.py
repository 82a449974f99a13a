"""The jobs of several gateways on the replicas that they share."""

from collections.abc import Mapping
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.placement.dispatch_messages import DispatcherAnswer, GatewayReport, JobOffer, SentJob
from lego_serve.core.placement.pool import Pool
from lego_serve.core.placement.pool_jobs import PoolJob, PoolRule
from lego_serve.core.placement.shared_pools import SharedPools

APP, A, B = "shared.workers", frozenset({"a"}), frozenset({"b"})
TWO = {"w1": A, "w2": A}


def job(number: int, seconds: float = 1.0, **more: object) -> SentJob:
    """A job of a second that needs model a."""
    return replace(SentJob(f"job {number}", APP, seconds, A), **more)


class Gateway:
    """Reports one thing after the other."""

    def __init__(self, pools: SharedPools, name: str) -> None:
        self.pools, self.name, self.number, self.places = pools, name, 0, dict[str, str]()

    def tell(self, now: float = 0.0, **what: object) -> DispatcherAnswer:
        """Report this; where it is not known, it and no job more."""
        self.number += 1
        answer = self.pools.hear(GatewayReport(self.name, self.number, self.number == 1, **what), now)
        self.places |= {job_id: place.replica for job_id, place in answer.places.items()}
        return answer


def two_gateways(rule: PoolRule | None = None, lease_s: float = 5.0, **seen: frozenset[str]) -> tuple[Gateway, Gateway]:
    """Two that see these workers."""
    pools = SharedPools({APP}, rule, lease_s)
    first, second = Gateway(pools, "first"), Gateway(pools, "second")
    for each in (first, second):
        each.tell(resident={APP: seen})
    return first, second


def test_each_gateway_hears_of_its_own_jobs_which_share_the_workers() -> None:
    """Also where both have one of the same id, as after the recovery of a job."""
    first, second = two_gateways(PoolRule(ahead=1, ahead_s=0.0), **TWO)
    first.tell(added=(job(1),))
    second.tell(added=(job(1),))
    assert first.places == {"job 1": "w1"}
    assert second.places == {"job 1": "w2"}
    second.tell(added=(job(2),))
    assert second.places["job 2"] == ""
    first.tell(ended=frozenset({"job 1"}))
    second.tell()
    assert second.places["job 2"] == "w1"


def test_an_answer_repeats_no_place_that_was_told() -> None:
    """But after a whole report, since the gateway may not have heard it."""
    first, _ = two_gateways(**TWO)
    assert set(first.tell(added=(job(1),)).places) == {"job 1"}
    assert first.tell().places == {}
    again = first.pools.hear(GatewayReport("first", 9, True, (job(1),), resident={APP: TWO}), 0.0)
    assert again.places["job 1"].replica == first.places["job 1"]


def test_deadlines_and_ends_are_told_as_seconds_from_now() -> None:
    """Whatever the dispatcher's clock shows."""
    first, second = two_gateways(lease_s=9e9, **{"w1": A})
    first.tell(5000.0, added=(job(1, 4.0, due_in_s=4.5),))
    expected = second.pools.offer(JobOffer("second", job(2)), 5000.0)
    assert expected is not None
    assert (expected.in_s, expected.place, expected.retry_after_s) == (5.0, 1, None)
    late = second.pools.offer(JobOffer("second", job(3, due_in_s=2.0)), 5000.0)
    assert late is not None
    assert late.retry_after_s is not None
    assert second.pools.offer(JobOffer("second", replace(job(4), app="another")), 5000.0) is None


def test_a_gateway_that_was_not_heard_of_is_forgotten_with_its_jobs_and_what_it_saw() -> None:
    """What others have stays, also their jobs of the same names."""
    first, second = two_gateways(PoolRule(ahead=1, ahead_s=0.0), **{"w1": A})
    first.tell(added=(job(1),), resident={APP: TWO})
    first.tell(added=(job(2),))
    second.tell(4.0, added=(job(1), job(3)))
    assert second.places == {"job 1": "", "job 3": ""}
    second.tell(5.1)
    assert second.pools.gateways == {"second": {"job 1", "job 3"}}
    assert second.places == {"job 1": "w1", "job 3": ""}  # w2 was seen by the first alone
    assert not first.tell(5.2, added=(job(4),)).is_known
    assert second.pools.gateways.keys() == {"second"}


def test_after_a_restart_jobs_are_where_they_were() -> None:
    """And those that have begun are taken by nobody; a report of less than all is not taken."""
    pools = SharedPools({APP})
    assert not pools.hear(GatewayReport("first", 7, added=(job(1),)), 0.0).is_known
    assert pools.gateways == {}
    jobs = tuple(job(number, replica="w2", is_settled=True) for number in range(3))
    answer = pools.hear(GatewayReport("first", 8, True, jobs, resident={APP: TWO}), 0.0)
    assert {name: place.replica for name, place in answer.places.items()} == dict.fromkeys(answer.places, "w2")
    assert pools.hear(GatewayReport("first", 9, left_s={"job 0": 0.5}), 1.0).places == {}


def test_an_idle_worker_takes_a_job_and_its_gateway_hears_from_where() -> None:
    """Whoever's report made it so; once."""
    first, second = two_gateways(**{"w1": A})
    for number in range(3):
        first.tell(added=(job(number),))
    first.tell(left_s={"job 0": 0.9})
    assert second.tell(resident={APP: TWO}).places == {}
    [(name, place)] = first.tell().places.items()
    assert (name, place.replica) == ("job 1", "w2")
    assert place.taken is not None
    assert (place.taken.job, place.taken.before, place.taken.after) == ("job 1", "w1", "w2")
    assert first.tell().places == {}


def test_a_worker_that_is_gone_for_one_is_gone_for_all_until_somebody_sees_it_again() -> None:
    """The jobs of both go elsewhere."""
    first, second = two_gateways(**{"w1": A})
    second.tell(added=(job(1),))
    first.tell(gone=frozenset({"w1"}))
    assert second.tell().apps == frozenset()
    assert second.places == {"job 1": ""}
    first.tell(resident={APP: {"w3": A}})
    second.tell()
    assert second.places == {"job 1": "w3"}


events = st.lists(
    st.tuples(
        st.sampled_from(["add", "end", "progressed", "report", "left", "loaded"]),
        st.integers(0, 20),
        st.floats(0.01, 5.0),
        st.sampled_from([A, B, A | B]),
        st.sets(st.sampled_from(["w1", "w2", "w3"])),
    ),
    max_size=40,
)


@given(events, st.integers(1, 3))
def test_several_gateways_are_placed_as_one_gateway_with_all_jobs_would_be(happened: list[tuple], ahead: int) -> None:
    """Event by event: against a pool that is told all of them."""
    rule = PoolRule(ahead, 0.5)
    pool, pools = Pool(rule), SharedPools({APP}, rule, lease_s=9e9)
    gateways = [Gateway(pools, name) for name in ("first", "second", "third")]
    for each in gateways:
        each.tell()
    for now, (kind, number, seconds, models, there) in enumerate(happened):
        mine, name = gateways[number % 3], f"job {number}"
        if kind == "add":
            pool.add(PoolJob(name, seconds, models), now)
            mine.tell(now, added=(job(number, seconds, models=models),))
        elif kind == "end":
            pool.end(name, now)
            mine.tell(now, ended=frozenset({name}))
        elif kind == "progressed":
            pool.progressed(name, seconds)
            mine.tell(now, left_s={name: seconds})
        elif kind == "report":
            seen = {each: A if each == "w1" else frozenset() for each in sorted(there)}
            pool.report(seen)
            for each in gateways[1:]:  # all see the same in the end, and one of them first
                each.tell(now, resident={APP: seen}, gone=frozenset({"w1", "w2", "w3"} - there))
            gateways[0].tell(now, resident={APP: seen})
        elif kind == "left":
            pool.left(there)
            mine.tell(now, gone=frozenset(there))
        else:
            pool.loaded("a", seconds)
            mine.tell(now, load_s={(APP, "a"): seconds})
        pool.bind(now)
        pool.steal(now)
        check_same(pool, gateways, now)


def check_same(pool: Pool, gateways: list[Gateway], now: float) -> None:
    """Every job is where the one pool has it."""
    for each in gateways:
        each.tell(now)
        for name in each.pools.gateways[each.name]:
            assert each.places[name] == (pool.replica_of(name) or "")


reports = st.lists(
    st.tuples(
        st.sampled_from(["first", "second", "third"]),
        st.booleans(),
        st.sets(st.integers(0, 9)),
        st.sets(st.integers(0, 9)),
        st.dictionaries(st.integers(0, 9), st.floats(0.0, 2.0), max_size=3),
        st.one_of(st.none(), st.sets(st.sampled_from(["w1", "w2", "w3"]))),
        st.sets(st.sampled_from(["w1", "w2", "w3"]), max_size=1),
        st.floats(0.0, 4.0),
        st.sampled_from(["once", "twice", "late"]),
    ),
    max_size=30,
)


@given(reports)
def test_whatever_comes_late_twice_or_never_jobs_are_on_workers_that_are_there(happened: list[tuple]) -> None:
    """Silent gateways are forgotten with exactly their own jobs; what is repeated or late changes nothing."""
    pools, now, numbers = SharedPools({APP}), 0.0, dict.fromkeys(("first", "second", "third"), 0)
    jobs, heard_s, seen = dict[str, set[str]](), dict[str, float](), dict[str, set[str]]()
    kept: list[GatewayReport] = []
    for name, is_whole, added, ended, left, there, gone, passed_s, how in happened:
        now += passed_s
        numbers[name] += 1
        resident = {} if there is None else {APP: dict.fromkeys(sorted(there), A)}
        report = GatewayReport(
            name,
            numbers[name],
            is_whole,
            tuple(job(number) for number in sorted(added)),
            {f"job {number}": seconds for number, seconds in left.items()},
            frozenset(f"job {number}" for number in ended),
            resident,
            frozenset(gone),
        )
        for silent in [each for each, at_s in heard_s.items() if now - at_s > 5.0 and each != name]:
            del heard_s[silent], jobs[silent], seen[silent]
        answer = pools.hear(report, now)
        assert answer.is_known == (is_whole or name in jobs)
        if answer.is_known:
            expected = set() if is_whole else jobs.get(name, set()) - set(report.ended)
            jobs[name], heard_s[name] = expected | {each.id for each in report.added}, now
            seen[name] = set(there if there is not None else () if is_whole else seen[name])
            seen = {each: those - gone for each, those in seen.items()}
        assert pools.gateways == jobs
        kept.append(report)
        repeated = {"once": [], "twice": [report], "late": kept[:-1]}[how]
        check_repeats(pools, [each for each in repeated if each.gateway in jobs], jobs, now)
        check_places(pools, jobs, set().union(*seen.values()), now)


def check_repeats(pools: SharedPools, repeated: list[GatewayReport], jobs: Mapping[str, set[str]], now: float) -> None:
    """They leave everything as it was."""
    before = places(pools, jobs, now)
    for report in repeated:
        pools.hear(report, now)
    assert pools.gateways == jobs
    assert places(pools, jobs, now) == before


def places(pools: SharedPools, jobs: Mapping[str, set[str]], now: float) -> dict[str, float]:
    """What a newcomer would hear says where everybody is."""
    pool = pools._pools.get(APP)
    expected = [pool.forecast(PoolJob("job 99", seconds), now) for seconds in (1.0, 9.0)] if pool is not None else []
    return {str(index): each.eta_s - now for index, each in enumerate(expected) if each is not None}


def check_places(pools: SharedPools, jobs: Mapping[str, set[str]], there: set[str], now: float) -> None:
    """Each job is nowhere or on a worker that somebody sees; nobody waits while there is one without work."""
    pool = pools._pools.get(APP)
    placed = {} if pool is None else {(g, j): pool.replica_of(f"{g} {j}") for g, those in jobs.items() for j in those}
    assert set(placed.values()) - {None} <= there
    if there and None in placed.values():
        assert there <= set(placed.values())


def test_a_place_that_one_gateway_was_promised_counts_for_all_until_it_is_given_back() -> None:
    """By the job's begin, the gateway's word, or silence; another gateway's offer of the same id is another job."""
    first, second = two_gateways(lease_s=9e9, **{"w1": A})
    pools = first.pools

    def is_admitted(gateway: str, number: int, now: float = 0.0) -> bool:
        expected = pools.offer(JobOffer(gateway, job(number, due_in_s=1.0)), now)
        assert expected is not None
        return expected.retry_after_s is None

    assert is_admitted("first", 1)
    assert not is_admitted("second", 1)
    assert second.tell(ended=frozenset({"job 1"})).work_s == 1.0  # which is not its own
    assert first.tell(ended=frozenset({"job 1"})).work_s == 0.0
    assert is_admitted("second", 1)
    assert second.tell(added=(job(1, due_in_s=1.0),)).places["job 1"].replica == "w1"
    assert not is_admitted("first", 2)
    assert second.tell(ended=frozenset({"job 1"})).work_s == 0.0
    assert is_admitted("a gateway nobody heard of", 3)
    assert not is_admitted("first", 2, 5.0)
    assert is_admitted("first", 2, 5.1)
