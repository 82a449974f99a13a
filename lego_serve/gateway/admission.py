"""Counts this gateway's pending jobs and admits no more than the limits allow."""

from collections.abc import Callable
from typing import Self

from lego_serve.core.jobs.ports import JobRunner
from lego_serve.core.scheduling.admission import AdmissionLimits, Load, Reject, admit
from lego_serve.errors import CapacityError
from lego_serve.metrics import Metrics


class Place:
    """The place of one admitted job among the pending ones, held until it is released; also a context manager."""

    def __init__(self, on_release: Callable[[], None]) -> None:
        self._on_release = on_release
        self._is_held = True

    def release(self) -> None:
        """Give the place to another job; a second time does nothing."""
        if self._is_held:
            self._is_held = False
            self._on_release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


class Admission:
    """Reserves places for jobs.

    A place counts from the check that admits its job, not from the moment the runner has it: requests that arrive
    together would all pass the check otherwise.
    """

    def __init__(self, limits: AdmissionLimits, runner: JobRunner, metrics: Metrics) -> None:
        self._limits, self._runner, self._metrics = limits, runner, metrics
        self._reserved = 0
        self._background = 0

    def check(self) -> None:
        """Raise CapacityError where a job would not be admitted now."""
        decision = admit(self._limits, self._load)
        if isinstance(decision, Reject):
            self._metrics.count_rejected(decision.reason)
            message = "Too many requests are pending; try again shortly."
            raise CapacityError(message, retry_after_s=decision.retry_after_s)

    def reserve(self) -> Place:
        """Reserve the place of a job that a client waits for.  Raises CapacityError."""
        self.check()
        self._reserved += 1
        self._metrics.count_accepted()
        return Place(self._leave)

    def reserve_background(self) -> Place | None:
        """Reserve the place of a job that nobody waits for; None unless the server is quiet."""
        if isinstance(admit(self._limits, self._load, is_background=True), Reject):
            return None
        self._reserved += 1
        self._background += 1
        return Place(self._leave_background)

    @property
    def _load(self) -> Load:
        # Every job the runner has is reserved here, unless it came to the runner by another way.
        return Load(max(self._reserved, self._runner.in_flight), self._background)

    def _leave(self) -> None:
        self._reserved -= 1
        self._metrics.count_left()

    def _leave_background(self) -> None:
        self._reserved -= 1
        self._background -= 1
