"""A run of tests with a bound of its time: what has not begun by then is left out, and counted in the summary."""

import time
from collections.abc import Callable, Collection
from typing import Protocol

import pytest

SECONDS = "LEGO_LONG_SECONDS"  # the variable that names the bound


class Report(Protocol):
    """What is used of pytest's report."""

    def section(self, title: str, /) -> None:
        """Begin a part."""

    def line(self, text: str, /) -> None:
        """Say a line."""


class TimeBudget:
    """A plugin that skips the tests which begin after so many seconds, unless their file is one of ``always``.

    Tests come in another order each time, so that none is left out always.
    """

    def __init__(
        self, seconds: float, always: Collection[str] = (), clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._seconds = seconds
        self._always = always
        self._clock = clock
        self._ends = clock() + seconds
        self.left_out: list[str] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Skip a test, before any fixture of it is made."""
        if self._clock() >= self._ends and not item.nodeid.startswith(tuple(self._always)):
            self.left_out.append(item.nodeid)
            pytest.skip(f"the {self._seconds:.0f} s of {SECONDS} are over")

    def pytest_terminal_summary(self, terminalreporter: Report) -> None:
        """Name what was left out."""
        if self.left_out:
            terminalreporter.section(f"{len(self.left_out)} left out after {self._seconds:.0f} s of {SECONDS}")
            for name in self.left_out:
                terminalreporter.line(name)
