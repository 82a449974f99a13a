"""What one gateway tells a dispatcher of its jobs, and what it knows of their places."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.placement.dispatch_messages import DispatcherAnswer, HeldModel, JobPlace
from lego_serve.core.placement.dispatched_jobs import DispatchedJobs
from lego_serve.core.placement.pool_jobs import PoolJob, Steal
from lego_serve.core.placement.shared_pools import SharedPools

APP, A = "shared.workers", frozenset({"a"})


def job(number: int, deadline_s: float = float("inf")) -> PoolJob:
    """A job of a second."""
    return PoolJob(f"job {number}", 1.0, A, deadline_s)


def gateway(*numbers: int) -> DispatchedJobs:
    """One that has told of these jobs."""
    made = DispatchedJobs("mine")
    made.see(APP, {"w1": ("a",)})
    for number in numbers:
        made.add(job(number), APP)
    made.report(0.0)
    return made


def test_the_first_report_tells_all_and_the_next_what_is_new() -> None:
    """Progress alone presses nobody."""
    made = gateway(0, 1)
    assert not made.is_pressing
    made.progressed("job 0", 0.4)
    assert not made.is_pressing
    made.end("job 1")
    made.add(job(2, deadline_s=12.0), APP)
    made.see(APP, {"w1": ("a",)})  # as before
    made.loaded(APP, "a", 1.5)
    assert made.is_pressing
    report = made.report(10.0)
    assert (report.number, report.is_whole, report.left_s, report.ended) == (2, False, {"job 0": 0.4}, {"job 1"})
    assert [(each.id, each.due_in_s) for each in report.added] == [("job 2", 2.0)]
    assert (report.resident, report.load_s) == ({}, {(APP, "a"): 1.5})
    assert made.report(11.0) == replace(made.report(11.0), number=3)


def test_a_report_that_may_be_lost_is_followed_by_all() -> None:
    """Each job with its place, and what is left of it; so it is for a dispatcher that knows nothing of the gateway."""
    made = gateway(0)
    made.heard(DispatcherAnswer(1, places={"job 0": JobPlace("w1")}))
    made.progressed("job 0", 0.4)
    made.report(0.0)
    for forgets in (made.lost, lambda: made.heard(DispatcherAnswer(3, is_known=False))):
        forgets()
        report = made.report(1.0)
        assert report.is_whole
        [sent] = report.added
        assert (sent.seconds, sent.replica, sent.is_settled) == (0.4, "w1", True)
        assert report.resident == {APP: {"w1": A}}
        assert not made.report(1.0).is_whole


def test_a_job_that_ended_before_anybody_heard_of_it_is_not_told() -> None:
    """One that is on its way is."""
    made = gateway(0)
    made.add(job(1), APP)
    made.end("job 1")
    made.end("nobody")
    assert not made.is_pressing
    made.end("job 0")
    assert made.report(0.0).ended == {"job 0"}


def test_a_job_that_was_taken_is_told_once_and_stays_from_then_on() -> None:
    """However often the dispatcher says so."""
    made = gateway(0)
    taken = Steal("job 0", "w1", "w2", 0.5)
    assert made.heard(DispatcherAnswer(1, places={"job 0": JobPlace("w2", taken), "gone": JobPlace("w1")})) == [taken]
    assert made.heard(DispatcherAnswer(2, places={"job 0": JobPlace("w2", taken)})) == []
    assert made.replica_of("job 0") == "w2"
    made.lost()
    assert made.report(0.0).added[0].is_settled


def test_the_jobs_of_a_worker_that_left_have_no_place_until_they_get_another() -> None:
    """And a call that was sent anywhere keeps its job from being taken."""
    made = gateway(0, 1)
    made.heard(DispatcherAnswer(1, places={"job 0": JobPlace("w1"), "job 1": JobPlace("w2")}))
    made.left({"w1"})
    assert [made.replica_of(f"job {number}") for number in (0, 1, 2)] == ["", "w2", ""]
    report = made.report(0.0)
    assert (report.gone, report.resident) == ({"w1"}, {})
    made.went_alone("job 0")
    assert made.report(0.0).left_s == {"job 0": 1.0}


happenings = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.sampled_from(["add", "end", "progressed", "see", "left", "aside", "held", "alone"]),
        st.integers(0, 6),
        st.sets(st.sampled_from(["w1", "w2", "w3"])),
        st.sampled_from(["arrives", "unanswered", "lost", "late", "restart", "silent"]),
    ),
    max_size=40,
)


@given(happenings)
def test_one_answer_after_anything_was_lost_both_sides_agree(happened: list[tuple]) -> None:
    """Reports are lost, late or unanswered, the dispatcher is started anew, gateways are silent for long."""
    pools, mine = SharedPools({APP}), [DispatchedJobs("first"), DispatchedJobs("second")]
    jobs: list[set[str]] = [set(), set()]
    late = []
    for now, (who, kind, number, there, how) in enumerate(happened):
        one, name = mine[who], f"{who} job {number}"
        if kind == "add" and name not in jobs[who]:
            one.add(replace(job(number), id=name), APP)
            jobs[who].add(name)
        elif kind == "end":
            one.end(name)
            jobs[who].discard(name)
        elif kind == "progressed":
            one.progressed(name, 0.5)
        elif kind == "see":
            one.see(APP, dict.fromkeys(sorted(there), A))
        elif kind == "left":
            one.left(there)
        elif kind == "aside":
            one.set_aside(there)
        elif kind == "held":
            one.held_back(APP, one.replica_of(name), "a", now + 2.0, name)
        else:
            one.went_alone(name)
        if how == "restart":
            pools = SharedPools({APP})
        report = one.report(now)
        if how == "arrives":
            one.heard(pools.hear(report, now))
            continue
        one.lost()
        if how == "late":
            late.append(report)
        elif how == "unanswered":
            pools.hear(report, now)
    for now in range(len(happened), len(happened) + 2):  # a whole one where it was not known
        for one in mine:
            for report in late:
                pools.hear(report, now)
            one.heard(pools.hear(one.report(now), now))
    assert pools.gateways == {"first": jobs[0], "second": jobs[1]}
    pool = pools._pools.get(APP)
    for one in mine:  # what the second's report changed for the first
        one.heard(pools.hear(one.report(len(happened) + 2), len(happened) + 2))
    for who, name in enumerate(("first", "second")):
        for each in jobs[who]:
            assert pool is not None
            assert mine[who].replica_of(each) == (pool.replica_of(f"{name} {each}") or "")


def test_a_job_that_was_offered_and_does_not_begin_is_told_at_once() -> None:
    """Also in a report of all; one that has begun is not withdrawn."""
    made = gateway(0)
    made.withdraw("job 0")
    assert not made.is_pressing
    for forgets in (lambda: None, made.lost):
        forgets()
        made.withdraw("job 1")
        assert made.is_pressing
        assert made.report(0.0).ended == {"job 1"}


def test_a_job_whose_replica_drains_or_cannot_load_its_model_waits_for_another_place() -> None:
    """It is told anew even where it is the same one, as where nobody can load it."""
    pools, made = SharedPools({APP}), DispatchedJobs("mine")
    made.see(APP, {"w1": A, "w2": ()})
    made.add(job(0), APP)
    made.heard(pools.hear(made.report(0.0), 0.0))
    assert made.replica_of("job 0") == "w1"
    made.set_aside({"w1"})
    assert made.replica_of("job 0") == ""
    assert made.is_pressing
    made.heard(pools.hear(made.report(0.0), 0.0))
    assert made.replica_of("job 0") == "w2"
    assert made.may_load(APP, "a", 0.0)
    made.held_back(APP, "w2", "a", 15.0, "job 0")
    assert made.is_pressing
    report = made.report(1.0)
    assert report.held == (HeldModel(APP, "w2", "a", 14.0, "job 0"),)
    made.heard(pools.hear(report, 1.0))
    assert made.replica_of("job 0") == "w2"
    assert not made.is_pressing
    made.set_aside(())
    made.heard(pools.hear(made.report(1.0), 1.0))
    made.add(job(1), APP)
    made.heard(pools.hear(made.report(1.0), 1.0))
    assert made.replica_of("job 1") == "w1"


def test_a_model_that_a_replica_could_not_load_is_told_again_with_all_for_as_long_as_it_is_held_back() -> None:
    """A dispatcher that began anew knows it at once."""
    made = gateway(0)
    made.see(APP, {"w1": ()})
    made.held_back(APP, "w1", "a", 15.0)
    assert not made.may_load(APP, "a", 14.0)
    assert made.may_load(APP, "a", 15.0)
    assert made.may_load(APP, "b", 0.0)
    for now, wanted in ((1.0, (HeldModel(APP, "w1", "a", 14.0),)), (16.0, ())):
        made.lost()
        assert made.report(now).held == wanted
    assert made.report(2.0).held == ()


def talk(pools: SharedPools, now: float, *gateways: DispatchedJobs) -> None:
    """Each reports and hears the answer, in two rounds, so that all know what the last one changed."""
    for each in (*gateways, *gateways):
        each.heard(pools.hear(each.report(now), now))


def test_a_worker_that_drains_or_hangs_for_one_gateway_gets_no_job_of_any_until_that_one_is_silent() -> None:
    """What pools come later keep away from it too."""
    pools, first, second = SharedPools({APP}, lease_s=5.0), DispatchedJobs("first"), DispatchedJobs("second")
    second.see(APP, {"w1": A, "w2": A})
    for number in range(2):
        second.add(job(number), APP)
    talk(pools, 0.0, first, second)
    assert {second.replica_of(f"job {number}") for number in range(2)} == {"w1", "w2"}
    first.set_aside({"w1"})
    second.see("other", {"w1": A, "x1": A})
    second.add(job(2), "other")
    talk(pools, 1.0, first, second)
    assert [second.replica_of(f"job {number}") for number in range(3)] == ["w2", "w2", "x1"]
    talk(pools, 9.0, second)
    assert {second.replica_of(f"job {number}") for number in range(2)} == {"w1", "w2"}


def test_a_model_that_a_worker_cannot_load_keeps_the_jobs_of_all_gateways_from_it() -> None:
    """The job that has heard of it is told its next place at once."""
    pools, first, second = SharedPools(()), DispatchedJobs("first"), DispatchedJobs("second")
    for each in (first, second):
        each.see(APP, {"w1": (), "w2": A})
    for number in range(4):
        second.add(job(number), APP)
    talk(pools, 0.0, first, second)
    [heard] = [name for name in map("job {}".format, range(4)) if second.replica_of(name) == "w1"]
    second.held_back(APP, "w1", "a", 15.0, heard)
    talk(pools, 1.0, second)
    assert {second.replica_of(f"job {number}") for number in range(4)} == {"w2"}
    for number in range(4, 8):
        first.add(job(number), APP)
    talk(pools, 1.0, first)
    assert {first.replica_of(f"job {number}") for number in range(4, 8)} == {"w2"}
