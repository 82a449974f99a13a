"""What one gateway tells a dispatcher of its jobs, and what it knows of their places."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.placement.dispatch_messages import DispatcherAnswer, JobPlace
from lego_serve.core.placement.dispatched_jobs import DispatchedJobs
from lego_serve.core.placement.pool import PoolJob, Steal
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
        st.sampled_from(["add", "end", "progressed", "see", "left", "alone"]),
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
