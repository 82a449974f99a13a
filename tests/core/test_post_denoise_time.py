"""What jobs take after their denoising."""

import pytest

from lego_serve.core.costs import PostDenoiseTime


def test_nothing_is_expected_of_an_unknown_workflow() -> None:
    """Zero, so that a lane has all the time there is."""
    assert PostDenoiseTime().of("text-to-image") == 0.0


def test_what_is_expected_follows_what_jobs_take() -> None:
    """The first job says all; each later one moves it, by workflow."""
    tails = PostDenoiseTime()
    tails.learn("a", 0.4)
    assert tails.of("a") == pytest.approx(0.4)
    for _ in range(50):
        tails.learn("a", 1.0)
    assert tails.of("a") == pytest.approx(1.0, abs=1e-3)
    assert tails.of("b") == 0.0
