"""The list schedule."""

from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.cluster.schedule import NEVER, Entry, Split, list_schedule

SECONDS = st.floats(0.1, 3.0)
JOBS = st.lists(st.tuples(SECONDS, st.floats(0.0, 20.0)), max_size=12)
FREE = st.lists(st.floats(0.0, 3.0), min_size=1, max_size=5)


def entries(jobs: list[tuple[float, float]], ready: list[float] | None = None) -> list[Entry]:
    """Jobs of seconds and deadlines, in order."""
    found = [Entry(deadline, n, deadline, seconds, None, ready) for n, (seconds, deadline) in enumerate(jobs)]
    return sorted(found, key=lambda each: each[:2])


@given(JOBS, FREE)
def test_a_workers_seconds_are_given_once(jobs: list[tuple[float, float]], free: list[float]) -> None:
    """Without deadlines, the last ends are at least all work over all workers."""
    patient = [each._replace(deadline_s=NEVER) for each in entries(jobs)]
    schedule = list_schedule(patient, free)
    assert schedule.late is None
    for slot, free_s in enumerate(free):
        turns = [
            (end, each.seconds)
            for end, each, where in zip(schedule.ends_s, patient, schedule.slots, strict=True)
            if where == slot
        ]
        for end, seconds in turns:
            assert end - seconds >= free_s - 1e-9
            free_s = end


@given(JOBS, FREE)
def test_both_ways_to_place_give_the_same_ends(jobs: list[tuple[float, float]], free: list[float]) -> None:
    """The heap for workers that are alike and the search for those that are not agree."""
    alike, searched = list_schedule(entries(jobs), free), list_schedule(entries(jobs, [0.0] * len(free)), free)
    assert alike.ends_s == searched.ends_s
    assert alike.late == searched.late


@given(JOBS, FREE)
def test_the_first_late_one_is_named(jobs: list[tuple[float, float]], free: list[float]) -> None:
    """All before it are in time."""
    order = entries(jobs)
    schedule = list_schedule(order, free)
    ends = zip(schedule.ends_s, order, strict=False)
    late = [index for index, (end, entry) in enumerate(ends) if end > entry.deadline_s + 1e-9]
    assert late == ([] if schedule.late is None else [schedule.late])


def test_a_bound_entry_stays_and_a_load_goes_beside_what_runs() -> None:
    """A started job ends on its worker; models are there after 2 s, while the worker runs something else until 3."""
    bound = Entry(1.0, 1, NEVER, 3.0, 0, None)
    loading = Entry(2.0, 2, NEVER, 1.0, None, [2.0, NEVER])
    schedule = list_schedule([bound, loading], [0.0, 0.0])
    assert schedule.ends_s == [3.0, 4.0]


def test_a_job_that_would_be_late_takes_two_workers() -> None:
    """Four steps of 0.5 s end at 2.2 s on one worker, at 1.4 with a helper from the start, later with a later one."""
    split = Split(0.1, 4, 0.5, 0.3, 0.1)
    entry = Entry(2.0, 1, 2.0, 2.2, None, None, split)
    assert list_schedule([entry], [0.0, 0.0]).ends_s == [split.ends_s(0.0, 0.0)]
    assert list_schedule([entry], [0.0]).late == 0
    assert list_schedule([entry], [0.0, 1.7]).late == 0
    assert list_schedule([entry], [0.0, 0.6]).ends_s == [split.ends_s(0.0, 0.6)] == [0.1 + 0.5 + 3 * 0.3 + 0.1]
