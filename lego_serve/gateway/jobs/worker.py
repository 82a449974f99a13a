"""The durable jobs that one gateway runs: claims them, keeps its lease, sweeps what is overdue, stops what it lost.

Everything here may meet a store that is away; it goes on when the store is back, and jobs that run go on meanwhile.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import suppress
from typing import Any

from lego_serve.core.durable_jobs.record import JobRecord
from lego_serve.core.durable_jobs.record_json import BadRecord
from lego_serve.errors import StoreUnavailable
from lego_serve.gateway.admission import Place
from lego_serve.gateway.jobs.attempt import JobAttempt
from lego_serve.gateway.jobs.parts import JobParts
from lego_serve.gateway.jobs.submission import shows_previews
from lego_serve.gateway.requests.job_request import ImageJobRequest
from lego_serve.jobstore.sweeping import lost_claims, sweep
from lego_serve.task_end import end_tasks

log = logging.getLogger("lego_serve.jobs")
RETRY_S = 1.0
LISTEN_S = 5.0
REFRESH_S = 0.1  # between two looks at what the store's changes are about
ORPHANS_S = 3600.0
BEATS = 3  # in the time of a lease


class JobWorker:
    """Runs what it claims, up to ``max_running`` jobs at once."""

    def __init__(self, parts: JobParts, chance: Callable[[], float] = random.random) -> None:
        self._parts, self._chance = parts, chance
        self._attempts: dict[str, tuple[JobAttempt, asyncio.Task[None]]] = {}
        self._loops: list[asyncio.Task[None]] = []
        self._wake = asyncio.Event()
        self._is_stopping = False
        self._is_queue_empty = False  # as far as the last claim saw
        self._may_have_lost_claims = True
        self._without_store: set[Callable[[], Coroutine[Any, Any, None]]] = set()  # what found it away the last time

    @property
    def running(self) -> tuple[str, ...]:
        """The jobs that run here."""
        return tuple(self._attempts)

    @property
    def is_store_away(self) -> bool:
        """Whether the store could not be reached the last time that something was asked of it."""
        return bool(self._without_store)

    @property
    def has_room(self) -> bool:
        """Whether a job that is accepted now may run at once: nobody waits, and there is a place."""
        return self._free > 0 and self._is_queue_empty and not self._is_stopping

    @property
    def _free(self) -> int:
        return self._parts.settings.max_running - len(self._attempts)

    def start(self) -> None:
        """Begin to claim jobs."""
        loops = (self._claim_jobs, self._keep_lease, self._sweep, self._listen, self._remove_orphans)
        self._loops = [asyncio.ensure_future(self._forever(each)) for each in loops]
        self._loops.append(asyncio.ensure_future(self._give_back_at_stop()))

    def adopt(self, record: JobRecord, prepared: ImageJobRequest | None = None, place: Place | None = None) -> None:
        """Run a job that this gateway has claimed; an earlier attempt at it here ends."""
        self.stop(record.id)
        attempt = JobAttempt(self._parts, record, prepared, place)
        task = asyncio.ensure_future(self._run(attempt))
        self._attempts[record.id] = attempt, task

    def attempt(self, job_id: str) -> JobAttempt | None:
        """Return the attempt at a job that runs here."""
        held = self._attempts.get(job_id)
        return None if held is None else held[0]

    def stop(self, job_id: str) -> None:
        """End an attempt here at its next step, and write nothing: somebody has ended the job, or has it now."""
        held = self._attempts.pop(job_id, None)
        if held is not None:
            held[1].cancel()

    def wake(self) -> None:
        """Look for jobs to claim: one was queued."""
        self._is_queue_empty = False
        self._wake.set()

    async def close(self) -> None:
        """Give back what runs, and stop."""
        await self._give_back()
        await end_tasks(self._loops)

    async def _run(self, attempt: JobAttempt) -> None:
        try:
            await attempt.run()
        except Exception:
            log.exception("job %s could not be ended", attempt.record.id)
        finally:
            held = self._attempts.get(attempt.record.id)
            if held is not None and held[0] is attempt:
                del self._attempts[attempt.record.id]
            self._wake.set()

    async def _forever(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do something again and again; where the store is away, after a while."""
        while True:
            try:
                await work()
                self._without_store.discard(work)
            except StoreUnavailable as error:
                self._may_have_lost_claims = True
                if work not in self._without_store:
                    log.warning("the job store is away: %s", error.message)
                self._without_store.add(work)
                await asyncio.sleep(RETRY_S)
            except Exception:  # whatever it is, durable jobs go on
                log.exception("durable jobs met an unexpected error")
                await asyncio.sleep(RETRY_S)

    async def _claim_jobs(self) -> None:
        self._wake.clear()
        free = self._free
        if free > 0 and not self._is_stopping:
            weights = self._parts.context.settings.weights
            claimed = await self._parts.store.claim(self._parts.settings.owner, free, weights)
            self._is_queue_empty = len(claimed) < free
            for record in claimed:
                self._parts.watchers.tell(record)
                self.adopt(record)
            if self._is_stopping and claimed:  # since the claim was sent; others were given back already
                await self._give_back()
        with suppress(TimeoutError):
            async with asyncio.timeout(LISTEN_S):  # `wait_for` of Python 3.11 may lose a cancel
                await self._wake.wait()

    async def _keep_lease(self) -> None:
        settings = self._parts.settings
        if not await self._parts.store.beat(settings.owner) and self._attempts:
            log.warning("this gateway's lease had ended; its jobs may have gone to others")
        await asyncio.sleep(settings.lease_s / BEATS)

    async def _sweep(self) -> None:
        swept = await sweep(self._parts.store)
        if swept.released:
            self._wake.set()
        for record in (*swept.released, *swept.expired):
            self._parts.written(record)
            if record.status.has_ended:
                self.stop(record.id)
                await self._parts.drop_running(record)
        await self.delete_files(record.id for record in swept.forgotten)
        self._parts.context.metrics.set_durable_jobs(await self._parts.store.counts())
        await asyncio.sleep(self._parts.settings.sweep_s * (1 + self._chance() / 2))

    async def _listen(self) -> None:
        """See what others have changed: jobs to claim, jobs that this gateway lost, jobs that are watched."""
        if not await self._parts.store.wait_for_change(LISTEN_S):
            return
        self._wake.set()
        await self._drop_lost()
        here = set(self._attempts)
        watched = [job_id for job_id in self._parts.watchers.job_ids if job_id not in here]
        records = await asyncio.gather(*(self._stored(job_id) for job_id in watched))
        for job_id, record in zip(watched, records, strict=True):
            if record is None:
                self._parts.watchers.tell_deleted(job_id, self._parts.wall())
            elif self._parts.watchers.tell(record) and shows_previews(record):
                for preview in await self._parts.previews.latest(record.id, record.attempt):
                    self._parts.watchers.tell(preview)
        await asyncio.sleep(REFRESH_S)

    async def _stored(self, job_id: str) -> JobRecord | None:
        """Return a job's record; None also where it cannot be read, which is the end of it."""
        with suppress(BadRecord):
            return await self._parts.store.get(job_id)
        return None

    async def _drop_lost(self) -> None:
        """Stop attempts at jobs that have ended or that another has, and take up claims whose answer was lost."""
        store, owner = self._parts.store, self._parts.settings.owner
        before = dict(self._attempts)
        owned = frozenset(await store.owned_ids(owner))
        for job_id, (attempt, _) in before.items():
            if job_id in owned:
                continue
            try:
                record = await store.get(job_id)
            except BadRecord:  # it was damaged and set aside, and what this attempt writes takes its place
                continue
            if record is None or record.status.has_ended or record.attempt != attempt.number:
                if record is not None:
                    self._parts.watchers.tell(record)
                self.stop(job_id)
                await self._parts.drop_refused(attempt.record)
        if self._may_have_lost_claims and not self._is_stopping:
            self._may_have_lost_claims = False
            for record in await lost_claims(store, owner, self._attempts):
                self.adopt(record)

    async def _remove_orphans(self) -> None:
        """Delete folders that no job's record is known for, as of submissions that were cut off, and old answers."""
        files, store = self._parts.files, self._parts.store
        for job_id in await asyncio.to_thread(files.orphans, self._parts.wall()):
            with suppress(BadRecord):  # whose files stay with it
                if await store.get(job_id) is None:
                    await self.delete_files([job_id])
        oldest = self._parts.wall() - self._parts.settings.retention.ended_s
        await asyncio.to_thread(files.delete_answers, oldest)
        await asyncio.sleep(ORPHANS_S)

    async def delete_files(self, job_ids: Iterable[str]) -> None:
        """Remove the files of forgotten jobs; what cannot be removed now is an orphan, and goes within hours."""
        for job_id in job_ids:
            with suppress(StoreUnavailable):
                await asyncio.to_thread(self._parts.files.delete, job_id)

    async def _give_back_at_stop(self) -> None:
        await self._parts.context.draining.begun()
        await self._give_back()

    async def _give_back(self) -> None:
        """Let others have what runs here, from its newest checkpoints."""
        self._is_stopping = True
        held, self._attempts = list(self._attempts.values()), {}
        await end_tasks(task for _, task in held)
        returns: list[Awaitable[None]] = [attempt.give_back() for attempt, _ in held]
        await asyncio.gather(*returns)
        self._parts.watchers.wake()
