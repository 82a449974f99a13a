"""A run of tests may be bounded in time."""

import pytest

from tests.support.plugins.time_budget import TimeBudget


class Lines:
    """A report that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def section(self, title: str) -> None:
        """Keep a title."""
        self.lines.append(title)

    line = section


def test_what_has_not_begun_when_the_time_is_over_is_left_out_and_named(request: pytest.FixtureRequest) -> None:
    """What begins before that runs to its end."""
    now = [100.0]
    budget = TimeBudget(60.0, clock=lambda: now[0])
    budget.pytest_runtest_setup(request.node)
    now[0] = 160.0
    with pytest.raises(pytest.skip.Exception, match="the 60 s of LEGO_LONG_SECONDS are over"):
        budget.pytest_runtest_setup(request.node)
    report = Lines()
    budget.pytest_terminal_summary(report)
    assert report.lines == ["1 left out after 60 s of LEGO_LONG_SECONDS", request.node.nodeid]


def test_what_every_run_has_to_show_is_never_left_out(request: pytest.FixtureRequest) -> None:
    """However late it begins."""
    budget = TimeBudget(-1.0, ["tests/plugins/test_time_budget.py"])
    budget.pytest_runtest_setup(request.node)
    assert not budget.left_out


def test_a_run_in_time_says_nothing_of_its_bound(request: pytest.FixtureRequest) -> None:
    """Nothing is left out."""
    budget = TimeBudget(60.0, clock=lambda: 0.0)
    budget.pytest_runtest_setup(request.node)
    report = Lines()
    budget.pytest_terminal_summary(report)
    assert not report.lines
