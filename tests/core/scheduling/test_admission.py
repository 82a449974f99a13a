"""Jobs are admitted up to a bound, background work only where the server is quiet."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.scheduling.admission import (
    QUIET_DIVISOR,
    AdmissionLimits,
    Admit,
    Applicant,
    DeadlineLimits,
    Holding,
    Load,
    Reject,
    admit,
    has_spare_capacity,
)

BACKGROUND = Applicant(is_background=True)
LIMITS = st.builds(
    AdmissionLimits,
    max_pending=st.integers(1, 64),
    max_background=st.integers(0, 4),
)
LOADS = st.integers(0, 80).flatmap(lambda pending: st.builds(Load, st.just(pending), st.integers(0, pending)))


def test_a_job_is_admitted_below_the_bound_and_rejected_at_it() -> None:
    """The last place is given, one more is not."""
    limits = AdmissionLimits(max_pending=2)
    assert [admit(limits, Load(pending)) for pending in range(3)] == [Admit(), Admit(), Reject("over_capacity")]


def test_background_work_starts_beside_an_eighth_of_the_bound_and_one_at_a_time() -> None:
    """With 2 of 16 jobs pending it may start; with 3, or beside other background work, it may not."""
    limits = AdmissionLimits(max_pending=16)
    assert admit(limits, Load(2), BACKGROUND) == Admit()
    assert admit(limits, Load(3), BACKGROUND) == Reject("busy")
    assert admit(limits, Load(1, background=1), BACKGROUND) == Reject("busy")


@pytest.mark.parametrize("wrong", [{"max_pending": 0}, {"max_background": -1}, {"max_images": 0}])
def test_limits_that_admit_nothing_are_a_mistake(wrong) -> None:
    """A ValueError says so when they are made."""
    with pytest.raises(ValueError, match="no job can be admitted"):
        replace(AdmissionLimits(4), **wrong)


@given(LIMITS, LOADS, st.booleans())
def test_a_decision_admits_within_the_bound_or_says_why_not(limits, load, is_background) -> None:
    """Admitted means below the bound, in the background also quiet; rejected means a reason."""
    decision = admit(limits, load, Applicant(is_background=is_background))
    if isinstance(decision, Reject):
        assert decision.reason == ("over_capacity" if load.pending >= limits.max_pending else "busy")
        assert is_background or load.pending >= limits.max_pending
    else:
        assert load.pending < limits.max_pending
        if is_background:
            assert load.pending * QUIET_DIVISOR <= limits.max_pending
            assert load.background < limits.max_background


@given(LIMITS, LOADS)
def test_less_load_never_turns_an_admission_into_a_rejection(limits, load) -> None:
    """What is admitted at a load is admitted at any lower one."""
    for is_background in (False, True):
        if admit(limits, load, Applicant(is_background=is_background)) == Admit() and load.pending:
            lower = Load(load.pending - 1, min(load.background, load.pending - 1))
            assert admit(limits, lower, Applicant(is_background=is_background)) == Admit()


@given(LIMITS, st.lists(st.sampled_from(["request", "background", "request ends", "background ends"]), max_size=200))
def test_counts_stay_within_the_limits_whatever_comes_and_goes(limits, arrivals) -> None:
    """A gateway that counts what it admits never has more pending, and starts background work only when quiet."""
    requests = background = 0
    for arrival in arrivals:
        load = Load(requests + background, background)
        match arrival:
            case "request":
                requests += isinstance(admit(limits, load), Admit)
            case "background":
                is_admitted = isinstance(admit(limits, load, BACKGROUND), Admit)
                assert not is_admitted or has_spare_capacity(limits, load)
                background += is_admitted
            case "request ends":
                requests = max(0, requests - 1)
            case "background ends":
                background = max(0, background - 1)
        assert requests + background <= limits.max_pending
        assert background <= limits.max_background


def filled(limits: AdmissionLimits, arrivals: list[Applicant]) -> Load:
    """The load after these came one after the other and nobody left."""
    load = Load()
    for job in arrivals:
        if isinstance(admit(limits, load, job), Admit):
            held = load.tenants.get(job.tenant, Holding())
            mine = Holding(held.jobs + 1, held.images + job.images, job.weight)
            tenants = {**load.tenants, job.tenant: mine}
            load = Load(load.pending + 1, 0, load.images + job.images, tenants)
    return load


APPLICANTS = st.builds(
    Applicant, st.sampled_from(["a", "b", "c", "d"]), st.sampled_from([0.5, 1.0, 4.0]), st.integers(1, 8)
)
SHARED = st.builds(
    AdmissionLimits,
    max_pending=st.integers(1, 300),
    max_images=st.none() | st.integers(1, 600),
    is_shared=st.booleans(),
)


@given(SHARED, st.lists(APPLICANTS, max_size=400))
def test_both_bounds_hold_whoever_comes(limits: AdmissionLimits, arrivals: list[Applicant]) -> None:
    """Jobs always; images too, but for one job that is larger than the bound and alone."""
    load = filled(limits, arrivals)
    assert load.pending <= limits.max_pending
    assert limits.max_images is None or load.images <= limits.max_images or load.pending == 1


@given(st.integers(9, 300), st.sampled_from([0.5, 1.0, 4.0]), st.sampled_from([0.5, 1.0, 4.0]))
def test_a_newcomer_finds_a_place_beside_a_tenant_that_takes_all_it_can(
    places: int, mine: float, theirs: float
) -> None:
    """Whatever their weights; and the first has at least half of the places to begin with."""
    limits = AdmissionLimits(places, is_shared=True)
    load = filled(limits, [Applicant("crowd", mine)] * 2 * places)
    assert places // 2 <= load.pending < places
    assert admit(limits, load, Applicant("newcomer", theirs)) == Admit()


@given(st.integers(20, 300), st.integers(2, 4))
def test_tenants_that_want_all_places_end_with_as_many_each(places: int, tenants: int) -> None:
    """They come in turns and all want more: no one has more than another but for one."""
    limits = AdmissionLimits(places, is_shared=True)
    load = filled(limits, [Applicant(f"t{number % tenants}") for number in range(3 * places)])
    held = [each.jobs for each in load.tenants.values()]
    assert max(held) - min(held) <= 1
    assert sum(held) >= places * 0.8


def test_a_tenant_without_others_has_all_places() -> None:
    """Where only one tenant can come nothing is kept free."""
    assert filled(AdmissionLimits(16), [Applicant()] * 20).pending == 16


def test_a_light_tenant_gets_less_beside_a_heavy_one() -> None:
    """In proportion to the weights, once both want more than there is."""
    limits = AdmissionLimits(180, is_shared=True)
    load = filled(limits, [Applicant("heavy", 2.0), Applicant("heavy", 2.0), Applicant("light", 1.0)] * 180)
    assert abs(load.tenants["heavy"].jobs - 2 * load.tenants["light"].jobs) <= 2


DEADLINES = DeadlineLimits(default_s=10.0, max_s=100.0)


@pytest.mark.parametrize(("deadline_s", "latest_s"), [(None, 15.0), (7.0, 7.0), (60.0, 60.0), (500.0, 105.0)])
def test_the_latest_end_is_the_callers_within_the_bound_and_else_the_default(deadline_s, latest_s) -> None:
    """For a job that begins at 5 s."""
    assert DEADLINES.latest(5.0, deadline_s) == latest_s


@pytest.mark.parametrize(("default_s", "max_s"), [(0.0, 1.0), (2.0, 1.0), (-1.0, 1.0)])
def test_limits_that_contradict_each_other_are_a_mistake(default_s: float, max_s: float) -> None:
    """A ValueError names both."""
    with pytest.raises(ValueError, match=f"{default_s:g} s by default and at most {max_s:g} s"):
        DeadlineLimits(default_s, max_s)


@given(st.floats(0, 1e6), st.none() | st.floats(0, 1e7))
def test_every_job_ends(now: float, deadline_s: float | None) -> None:
    """At its deadline or before, and never later than the bound."""
    latest_s = DEADLINES.latest(now, deadline_s)
    assert latest_s <= now + DEADLINES.max_s
    assert deadline_s is None or latest_s <= deadline_s
