"""Counts this gateway's pending jobs, of all and of each tenant, and admits no more than the limits allow."""

import asyncio
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Self

from starlette.requests import ClientDisconnect

from lego_serve.core.jobs.forecast import Forecast
from lego_serve.core.jobs.job import Job
from lego_serve.core.jobs.ports import JobRunner
from lego_serve.core.scheduling.admission import AdmissionLimits, Applicant, Holding, Load, Reject, admit, is_crowded
from lego_serve.core.scheduling.drain_pace import MAX_WAIT_S, MIN_WAIT_S, DrainPace
from lego_serve.errors import CapacityError, DeadlineExceeded, JobCancelled, StaleAttempt
from lego_serve.metrics import Ending, Metrics

GIVEN_UP = (JobCancelled, StaleAttempt, asyncio.CancelledError, ClientDisconnect, GeneratorExit)
MESSAGES = {
    "over_capacity": "Too many requests are pending; try again in {seconds:.0f} s.",
    "tenant_share": "Your requests take all the places that one tenant may have; try again in {seconds:.0f} s.",
}


class Place:
    """The place of one admitted job among the pending ones, held until it is released; also a context manager."""

    def __init__(self, on_release: Callable[[bool, Ending], None]) -> None:
        self._on_release = on_release
        self._is_held = True
        self._ending: Ending | None = None

    def note(self, error: BaseException) -> None:
        """Note what the job ended with, where that is not raised through this context."""
        self._ending = ending_of(error)

    def release(self, *, is_done: bool = True, ending: Ending | None = None) -> None:
        """Give the place to another job; a second time does nothing.  ``is_done``: the job was not given up."""
        if self._is_held:
            self._is_held = False
            self._on_release(is_done, ending or self._ending or ("completed" if is_done else "cancelled"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self.release(is_done=kind is None, ending=None if error is None else ending_of(error))


class Admission:
    """Reserves places for jobs.

    A place counts from the check that admits its job, not from the moment the runner has it: requests that arrive
    together would all pass the check otherwise.
    """

    def __init__(
        self,
        limits: AdmissionLimits,
        runner: JobRunner,
        metrics: Metrics,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._limits, self._runner, self._metrics, self._chance = limits, runner, metrics, chance
        self._load = Load()
        self._pace = DrainPace()
        self._tenant_paces: dict[str, DrainPace] = {}

    def _check(self, applicant: Applicant) -> None:
        """Raise CapacityError where a job would not be admitted now."""
        decision = admit(self._limits, self._seen_load, applicant)
        if isinstance(decision, Reject):
            self._metrics.count_rejected(decision.reason)
            pace = self._pace if decision.reason == "over_capacity" else self._pace_of(applicant.tenant)
            seconds = pace.retry_after_s(self._runner.now(), self._chance())
            raise CapacityError(MESSAGES[decision.reason].format(seconds=seconds), retry_after_s=seconds)

    def reserve(self, applicant: Applicant) -> Place:
        """Reserve the place of a job that a client waits for.  Raises CapacityError."""
        self._check(applicant)
        self._metrics.count_accepted()
        return self._take(applicant)

    @contextmanager
    def accepting(self, applicant: Applicant) -> Iterator[None]:
        """Hold a place while the images of a job are decoded that may wait elsewhere afterwards, without a place.

        Nothing of it is counted as a job.  Raises CapacityError.
        """
        self._check(applicant)
        self._change(applicant, 1)
        try:
            yield
        finally:
            self._change(applicant, -1)

    @property
    def is_crowded(self) -> bool:
        """Whether jobs that allow it should run in a lower tier, before any is rejected."""
        return is_crowded(self._limits, self._seen_load)

    @property
    def expected_at(self) -> float | None:
        """When all that is pending now is expected to have ended, on the runner's clock; None before anything has.

        Of a job that has just its place that is an estimate of its own end: it goes last, at the recent pace.
        """
        now = self._runner.now()
        expected_s = self._pace.expected_s(now)
        return None if expected_s is None else now + expected_s

    async def check_deadline(self, job: Job, scope: ExitStack, lower: Job | None = None) -> Job:
        """Return a job that ends by its deadline, and has no other one end after its own: itself, or else ``lower``.

        That is the same job in the lowest tier that its caller allows.  Raises CapacityError where both would be late:
        at once, so that the client can go elsewhere, in place of an answer that nobody waits for any more.  A job that
        is in time counts for all who come after it, until ``scope`` ends if it does not begin before.
        """
        if job.deadline_s is None:
            return job
        scope.callback(self._runner.withdraw, job.id)
        forecast = await self._runner.offer(job)
        if forecast is None or forecast.retry_after_s is None:
            return job
        if lower is not None:
            forecast = await self._runner.offer(lower)
        if forecast is None or forecast.retry_after_s is None:
            return lower or job
        self._metrics.count_rejected("late")
        raise self._late(job, forecast, forecast.retry_after_s)

    def _late(self, job: Job, forecast: Forecast, retry_after_s: float) -> CapacityError:
        """Return the error of a job that would be late, after it was written down."""
        now, seconds = self._runner.now(), min(MAX_WAIT_S, max(MIN_WAIT_S, retry_after_s))
        deadline_s = now if job.deadline_s is None else job.deadline_s
        message = (
            f"{forecast.place} requests are ahead: this would be ready in {forecast.eta_s - now:.1f} s, and not all "
            "with a tenth of the time to their deadlines to spare; its own deadline is in "
            f"{deadline_s - now:.1f} s. Try again in {seconds:.0f} s."
        )
        self._runner.journal.decide("refuse", job.workflow, "it, or another, would be late", now, job=job.id)
        return CapacityError(message, code="would_be_late", retry_after_s=seconds)

    def reserve_background(self, applicant: Applicant) -> Place | None:
        """Reserve the place of a job that nobody waits for; None unless the server is quiet."""
        applicant = replace(applicant, is_background=True)
        if isinstance(admit(self._limits, self._seen_load, applicant), Reject):
            return None
        return self._take(applicant)

    @property
    def _seen_load(self) -> Load:
        # Every job the runner has is reserved here, unless it came to the runner by another way.
        running = self._runner.in_flight
        return self._load if running <= self._load.pending else replace(self._load, pending=running)

    def _take(self, applicant: Applicant) -> Place:
        now = self._runner.now()
        self._change(applicant, 1)
        self._pace.begin(applicant.images, now)
        self._pace_of(applicant.tenant).begin(applicant.images, now)

        def leave(is_done: bool, ending: Ending) -> None:
            ended = self._runner.now()
            self._change(applicant, -1)
            self._pace.end(applicant.images, ended, is_done=is_done)
            self._pace_of(applicant.tenant).end(applicant.images, ended, is_done=is_done)
            if not applicant.is_background:
                self._metrics.count_left(ending)

        return Place(leave)

    def _change(self, applicant: Applicant, jobs: int) -> None:
        """Count one job more (1) or less (-1)."""
        load, images = self._load, jobs * applicant.images
        held = load.tenants.get(applicant.tenant, Holding())
        held = Holding(held.jobs + jobs, held.images + images, applicant.weight if jobs > 0 else held.weight)
        tenants = {tenant: each for tenant, each in load.tenants.items() if tenant != applicant.tenant}
        if held.jobs:
            tenants[applicant.tenant] = held
        background = load.background + jobs * applicant.is_background
        self._load = Load(load.pending + jobs, background, load.images + images, tenants)

    def _pace_of(self, tenant: str) -> DrainPace:
        return self._tenant_paces.setdefault(tenant, DrainPace())


def ending_of(error: BaseException) -> Ending:
    """Return how a job ended that ended with an error."""
    if isinstance(error, DeadlineExceeded):
        return "expired"
    return "cancelled" if isinstance(error, GIVEN_UP) else "failed"


def applicant_of(job: Job) -> Applicant:
    """Return what a job asks to be admitted as."""
    images = job.inputs.get("n", 1)
    return Applicant(job.tenant, job.weight, max(1, images) if isinstance(images, int) else 1)
