"""Retry policies: so many attempts, with pauses between them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.scheduling.retry import RetryPolicy


@given(st.integers(1, 200), st.lists(st.floats(0, 60), min_size=1, max_size=5))
def test_a_policy_pauses_once_less_than_it_tries(attempts: int, pauses_s: list[float]) -> None:
    """The last pause is repeated, and the sum of all is what it says."""
    policy = RetryPolicy(attempts, tuple(pauses_s))
    pauses = list(policy.pauses())
    assert len(pauses) == attempts - 1
    assert pauses[: len(pauses_s)] == pauses_s[: attempts - 1]
    assert set(pauses[len(pauses_s) :]) <= {pauses_s[-1]}
    assert policy.longest_s == pytest.approx(sum(pauses))


@pytest.mark.parametrize(("attempts", "pauses_s"), [(0, (1.0,)), (3, ()), (3, (1.0, -0.1))])
def test_what_is_no_policy_is_refused(attempts: int, pauses_s: tuple[float, ...]) -> None:
    """At the place where it is written down."""
    with pytest.raises(ValueError, match="no policy"):
        RetryPolicy(attempts, pauses_s)
