"""Replicas that cannot load a model, that drain or hang: nothing is placed there, until they are well again."""

from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.placement.pool_replicas import OVERDUE_S
from tests.support.pools import NAMES, SECONDS, B, job, pool


def test_a_replica_that_cannot_load_a_model_gets_no_job_of_it_for_as_long_as_it_says() -> None:
    """It is free all the time, since such jobs fail at once; jobs of other models go there as before."""
    two = pool(one=("b",), other=("b",))
    [(_, first)] = two.add(job(0), 0.0)
    second = "other" if first == "one" else "one"
    two.held_back(first, "a", 15.0, "job 0")
    assert two.bind(0.0) == [("job 0", second)]
    for number in range(1, 6):
        assert two.add(job(number), 1.0) == [(f"job {number}", second)]
    assert two.add(job(6, models=B), 1.0) == [("job 6", first)]
    assert two.steal(1.0) == []
    two.end("job 6", 2.0)
    two.loaded("a", 0.1)
    assert two.steal(14.0) == []
    assert [each.after for each in two.steal(15.0)] == [first]


def test_where_a_load_has_failed_jobs_that_have_not_begun_go_on_elsewhere() -> None:
    """Those that run stay, but for the one that heard of it: it needs the model now."""
    one = pool(one=())
    for number in range(4):
        one.add(job(number, 0.1), 0.0)
    one.add(job(4, 0.1, B), 0.0)
    one.progressed("job 0", 0.05)
    one.progressed("job 1", 0.05)
    one.report({"one": (), "other": ()})
    one.held_back("one", "a", 15.0, "job 0")
    one.bind(0.0)
    assert {number: one.replica_of(f"job {number}") for number in range(5)} == {
        0: "other",
        1: "one",
        2: "other",
        3: "other",
        4: "one",
    }


def test_a_model_that_nobody_can_load_keeps_its_jobs_from_no_replica_so_that_they_hear_why() -> None:
    """And it is known that nobody may, until the first one tries again, or has it."""
    two = pool(one=(), other=("b",))
    two.held_back("one", "a", 15.0)
    assert two.may_load("a", 0.0)
    two.held_back("other", "a", 20.0)
    assert not two.may_load("a", 14.9)
    assert len(two.add(job(0), 1.0)) == 1
    heard = two.forecast(job(1, models=B), 1.0)
    assert heard is not None
    assert heard.eta_s < 10.0
    assert two.may_load("a", 15.0)
    two.report({"one": (), "other": ("a",)})
    assert two.may_load("a", 2.0)


def test_what_should_have_been_there_for_a_while_is_not_expected_any_more() -> None:
    """A load that was given up, or undone at once, leaves no word: jobs would be sent there as if it had succeeded."""
    for late_s, load_s in ((0.0, 0.0), (OVERDUE_S, 0.0), (OVERDUE_S + 0.1, 1.0)):
        one = pool(one=())
        one.loaded("a", 1.0)
        one.add(job(0), 0.0)  # so that the model should be there at 1.0
        one.end("job 0", 0.5)
        heard = one.forecast(job(1), 1.0 + late_s)
        assert heard is not None
        assert round(heard.eta_s - (1.0 + late_s), 6) == 1.0 + load_s


def test_nothing_is_placed_on_replicas_that_drain_or_hang_and_their_jobs_go_on_elsewhere() -> None:
    """Nor taken by them or promised; those that are well again are as good as before."""
    two = pool(one=("a",), other=("a",))
    for number in range(2):
        two.add(job(number), 0.0)
    two.set_aside({"one"})
    two.bind(0.0)
    assert {two.replica_of(f"job {number}") for number in range(2)} == {"other"}
    heard = two.forecast(job(9), 0.0)
    assert heard is not None
    assert heard.eta_s == 3.0
    assert two.steal(0.0) == []
    two.report({"one": ("a",), "other": ("a",), "third": ()})
    assert two.steal(0.0) == []
    two.set_aside({"one", "other", "third"})
    assert not two.has_replicas
    assert two.waiting == 2
    two.set_aside({"other"})
    assert dict(two.bind(0.0)) == {"job 0": "one", "job 1": "one"}


@given(st.lists(st.tuples(st.sampled_from(["report", "aside", "left"]), st.sets(st.sampled_from(NAMES)))), SECONDS)
def test_replicas_are_used_that_were_reported_last_and_are_well(happened: list[tuple], seconds: float) -> None:
    """In whatever order it is said that they come, go, drain and are well."""
    made, there, unwell = pool(), set[str](), set[str]()
    made.add(job(0, seconds), 0.0)
    for kind, names in happened:
        if kind == "report":
            made.report(dict.fromkeys(sorted(names), ()))
            there = set(names)
        elif kind == "aside":
            made.set_aside(names)
            unwell = names
        else:
            made.left(sorted(names))
            there -= names
        made.bind(0.0)
        assert made.has_replicas == bool(there - unwell)
        assert (made.replica_of("job 0") in there - unwell) == bool(there - unwell)
