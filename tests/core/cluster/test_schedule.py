"""The list schedule."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import lego_serve.core.cluster.schedule as schedule_module
from lego_serve.core.cluster.schedule import NEVER, Entry, Schedule, Split, WaitingList, late_ones, list_schedule
from lego_serve.core.cluster.state import Job, Lane
from tests.support.cluster.settings import small_costs, small_work

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


TIMES = st.one_of(st.integers(0, 4).map(float), st.floats(0.0, 6.0))  # whole ones, so that some are equal
SPLITS = st.none() | st.builds(Split, TIMES, st.integers(1, 5), st.floats(0.1, 2.0), st.floats(0.1, 2.0), TIMES)


@st.composite
def mixed(draw: st.DrawFn) -> tuple[list[Entry], list[float]]:
    """Entries of all kinds on a few slots; those of one set of models share the times at which these are there."""
    free = draw(st.lists(TIMES, min_size=1, max_size=5))
    ready = st.lists(TIMES | st.just(NEVER), min_size=len(free), max_size=len(free))
    sets = [None, *draw(st.lists(ready, max_size=3))]
    jobs = draw(
        st.lists(
            st.tuples(
                TIMES, TIMES | st.just(NEVER), st.none() | st.integers(0, len(free) - 1), st.sampled_from(sets), SPLITS
            ),
            max_size=15,
        )
    )
    order = sorted(enumerate(jobs), key=lambda each: (each[1][1], each[0]))
    return [Entry(late, n, late, s, bound, ready, split) for n, (s, late, bound, ready, split) in order], free


def plainly(entries: list[Entry], free_s: list[float], stops: bool) -> Schedule:
    """The definition: each on its slot, or where it begins soonest, helped where it would be late."""
    free, ends, slots, late = list(free_s), [], [], None
    for entry in entries:
        ready = entry.ready_s or [0.0] * len(free)
        starts = [max(pair) for pair in zip(free, ready, strict=True)]
        slot = starts.index(min(starts)) if entry.bound is None else entry.bound
        start_s = starts[slot] if entry.bound is None else free[slot]
        end, limit_s = start_s + entry.seconds, entry.deadline_s + 1e-9
        others = [each for each in range(len(free)) if each != slot and ready[each] <= free[each] < NEVER]
        if NEVER > end > limit_s and entry.split is not None and others:
            helper = min(others, key=free.__getitem__)
            helped = entry.split.ends_s(start_s, free[helper])
            if helped <= limit_s:
                end, free[helper] = helped, helped - entry.split.decode_s
        free[slot] = end
        ends.append(end)
        slots.append(slot)
        if end > limit_s and late is None:
            late = len(ends) - 1
            if stops:
                break
    return Schedule(ends, slots, late)


@given(mixed(), st.booleans())
def test_jobs_go_where_a_search_of_all_slots_would_place_them(
    made: tuple[list[Entry], list[float]], stops: bool
) -> None:
    """Whatever is equal, bound, loaded or split."""
    entries, free = made
    assert list_schedule(entries, free, stops=stops) == plainly(entries, free, stops)


@given(mixed())
def test_all_late_ones_are_found_at_once(made: tuple[list[Entry], list[float]]) -> None:
    """The same as by looking for the first, excusing it, and looking again."""
    entries, free = made
    excused, found = list(entries), []
    while (late := list_schedule(excused, free).late) is not None:
        found.append(late)
        excused[late] = excused[late]._replace(deadline_s=NEVER)
    assert late_ones(entries, free) == found


def end_plainly(jobs: list[Lane], free_s: list[float], newcomer: Lane) -> float | None:
    """When a newcomer ends if each job goes to the worker that is free first; None if anybody is late with it."""
    free, end_s = list(free_s), None
    for lane in sorted([*jobs, newcomer], key=lambda each: (each.job.deadline_s, each.job.id)):
        slot = free.index(min(free))
        free[slot] += lane.left_s
        if free[slot] > lane.job.deadline_s:
            return None
        end_s = free[slot] if lane is newcomer else end_s
    return end_s


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["offer", "offer", "offer", "take", "drop", "call ends"]),
            st.integers(1, 4),
            st.integers(0, 60).map(lambda tenths: 0.1 * tenths) | st.floats(0.0, 9.0),
            st.integers(0, 99),
        ),
        max_size=40,
    ),
    st.lists(TIMES, min_size=1, max_size=4),
    st.integers(1, 3),
)
def test_what_a_waiting_list_remembers_changes_no_answer(
    happened: list[tuple[str, int, float, int]], free: list[float], apart: int
) -> None:
    """Newcomers anywhere in the order, jobs that start or are dropped, workers that are free at other times."""
    waiting, costs = WaitingList(), small_costs()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(schedule_module, "FAR", 2 * apart)
        patched.setattr(schedule_module, "NEAR", apart)
        for number, (kind, steps, due_s, which) in enumerate(happened):
            jobs = list(waiting)
            if kind == "offer":
                lane = Lane.of(Job(number, small_work(steps=steps, costs=costs), 0.0, due_s))
                place, newcomer = waiting.place(lane.job), (lane.left_s, due_s)
                end_s = waiting.end_if_kept(list(free), place, newcomer)
                assert end_s == end_plainly(jobs, free, lane)
                if end_s is not None or which % 8 == 0:  # some are admitted though somebody is late
                    waiting.add(lane)
            elif kind == "call ends":
                free = [*free[1:], free[0] + 0.01 * which]
            elif jobs:
                waiting.remove(jobs[0] if kind == "take" else jobs[which % len(jobs)])
