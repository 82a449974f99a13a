"""A gateway's talk with one dispatcher: reports now and then, answers, and what it means that there are none."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from lego_serve.core.placement.dispatch_messages import Expectation, JobOffer, SentJob
from lego_serve.core.placement.dispatched_jobs import DispatchedJobs
from lego_serve.core.placement.pool_jobs import Steal
from lego_serve.serving.coordinator.dispatcher import Dispatcher
from lego_serve.serving.errors import DispatcherGone

log = logging.getLogger("lego_serve.coordinator")


@dataclass(frozen=True, slots=True)
class LinkTimes:
    """Seconds: between reports of progress, and while there is no job; how long answers are waited for.

    ``forecast_s`` bounds what a dispatcher that hangs costs a request: its forecast, and the first word of its place.
    ``answer_s`` is longer, since a late answer to a report keeps nobody waiting, and is no reason to place jobs by lot.
    """

    report_s: float = 0.25
    idle_s: float = 1.0
    forecast_s: float = 0.2
    answer_s: float = 1.0
    retry_s: float = 0.5


class DispatcherLink:
    """One dispatcher; ``is_here`` while it answers.

    ``on_answer`` is called after each answer with the jobs that were taken from a worker, and with None as soon as
    answers fail to come.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        jobs: DispatchedJobs,
        clock: Callable[[], float],
        on_answer: Callable[["DispatcherLink", list[Steal] | None], None],
        times: LinkTimes,
    ) -> None:
        self._dispatcher, self.jobs, self._clock = dispatcher, jobs, clock
        self._on_answer, self._times = on_answer, times
        self.is_here = False
        self._pressed = asyncio.Event()
        self._talking: asyncio.Task[None] | None = None

    def wake(self) -> None:
        """Tell at once what presses; the first time begins the talk."""
        if self.jobs.is_pressing:
            self._pressed.set()
        if self._talking is None or self._talking.done():
            self._talking = asyncio.get_running_loop().create_task(self._talk())

    async def offer(self, job: SentJob) -> Expectation | None:
        """Say when a newcomer would end, and keep its place if that is in time; None where that is not known soon."""
        if not self.is_here:
            return None
        expected = None
        try:
            async with asyncio.timeout(self._times.forecast_s):
                expected = await self._dispatcher.offer(JobOffer(self.jobs.gateway, job))
        except (DispatcherGone, TimeoutError):
            pass
        finally:
            if expected is None:  # it may have a place there nevertheless, which its caller does not wait for
                self.withdraw(job.id)
        return expected

    def withdraw(self, job_id: str) -> None:
        """A job that was offered does not begin after all."""
        self.jobs.withdraw(job_id)
        self.wake()

    async def _talk(self) -> None:
        """Report and hear the answers, one after the other, for as long as the process runs."""
        while True:
            self._pressed.clear()
            if not await self._exchange():
                await asyncio.sleep(self._times.retry_s)
            elif not self.jobs.is_pressing:
                pause_s = self._times.report_s if len(self.jobs) else self._times.idle_s
                try:
                    async with asyncio.timeout(pause_s):
                        await self._pressed.wait()
                except TimeoutError:
                    pass

    async def _exchange(self) -> bool:
        """Make a report and hear the answer; False where none comes."""
        report = self.jobs.report(self._clock())
        try:
            async with asyncio.timeout(self._times.answer_s):
                answer = await self._dispatcher.hear(report)
        except (DispatcherGone, TimeoutError) as error:
            log.debug("no answer of a dispatcher: %r", error)
            self.jobs.lost()
            self.is_here = False
            self._on_answer(self, None)
            return False
        taken = self.jobs.heard(answer)
        if answer.is_known:
            self.is_here = True
            self._on_answer(self, taken)
        return True
