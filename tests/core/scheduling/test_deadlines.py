"""A job ends at its caller's deadline, and else at the server's; nothing runs for ever."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.scheduling.deadlines import DeadlineLimits

LIMITS = DeadlineLimits(default_s=10.0, max_s=100.0)


@pytest.mark.parametrize(("deadline_s", "latest_s"), [(None, 15.0), (7.0, 7.0), (60.0, 60.0), (500.0, 105.0)])
def test_the_latest_end_is_the_callers_within_the_bound_and_else_the_default(deadline_s, latest_s) -> None:
    """For a job that begins at 5 s."""
    assert LIMITS.latest(5.0, deadline_s) == latest_s


@pytest.mark.parametrize(("default_s", "max_s"), [(0.0, 1.0), (2.0, 1.0), (-1.0, 1.0)])
def test_limits_that_contradict_each_other_are_a_mistake(default_s: float, max_s: float) -> None:
    """A ValueError names both."""
    with pytest.raises(ValueError, match=f"{default_s:g} s by default and at most {max_s:g} s"):
        DeadlineLimits(default_s, max_s)


@given(st.floats(0, 1e6), st.none() | st.floats(0, 1e7))
def test_every_job_ends(now: float, deadline_s: float | None) -> None:
    """At its deadline or before, and never later than the bound."""
    latest_s = LIMITS.latest(now, deadline_s)
    assert latest_s <= now + LIMITS.max_s
    assert deadline_s is None or latest_s <= deadline_s
