"""What cannot be loaded is not tried at every request, and never held back for ever."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.caching.quarantine import Quarantine


def test_a_failure_holds_a_key_back_for_a_while() -> None:
    """With its reason; another key is free."""
    quarantine = Quarantine(10.0, 60.0)
    quarantine.note_failure("m", "no folder", 100.0)
    held = quarantine.held_back("m", 109.0)
    assert held is not None
    assert (held.reason, held.times) == ("no folder", 1)
    assert quarantine.held_back("other", 100.0) is None
    assert quarantine.held_back("m", 110.0) is None


def test_a_success_forgets_the_failures() -> None:
    """The next failure is a first one again."""
    quarantine = Quarantine(10.0, 60.0)
    quarantine.note_failure("m", "a", 0.0)
    quarantine.note_success("m")
    assert quarantine.failures() == {}
    quarantine.note_failure("m", "b", 50.0)
    assert quarantine.failures()["m"].until_s == 60.0


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=80))
def test_each_failure_in_a_row_waits_twice_as_long_up_to_the_most(times: list[float]) -> None:
    """However many there are, and whatever the clock says."""
    quarantine = Quarantine(10.0, 600.0)
    for count, now in enumerate(times):
        quarantine.note_failure("m", "a", now)
        pause_s = quarantine.failures()["m"].until_s - now
        assert pause_s == pytest.approx(min(600.0, 10.0 * 2**count))


def test_times_that_make_no_sense_are_refused() -> None:
    """The first wait is not above the most."""
    with pytest.raises(ValueError, match="cannot be kept"):
        Quarantine(10.0, 5.0)
