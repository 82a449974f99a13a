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
