"""One attempt at a durable job: from its claim to the change that ends it, or to the news that another has it."""

import asyncio
import logging
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any

from lego_serve.core.durable_jobs.checkpoint import JobCheckpoint
from lego_serve.core.durable_jobs.lane_reports import LaneReports
from lego_serve.core.durable_jobs.preview import JobPreview
from lego_serve.core.durable_jobs.record import JobRecord, Json, SettledTier, StoredProgress
from lego_serve.core.durable_jobs.transitions import complete, hand_over, settle
from lego_serve.core.durable_jobs.transitions import progress as progressed
from lego_serve.core.jobs.job import GeneratedImage, Job, JobProgress, JobResult
from lego_serve.core.jobs.progress import StreamOptions
from lego_serve.errors import JobEnded, LegoError, NotFound, RequestError, StaleAttempt, StoreUnavailable
from lego_serve.gateway.admission import Place
from lego_serve.gateway.jobs.checkpoints import JobCheckpoints, job_hash
from lego_serve.gateway.jobs.outcomes import NOT_NOW, Decide, InputsUnavailable, decision_about
from lego_serve.gateway.jobs.parts import JobParts
from lego_serve.gateway.jobs.submission import choose_workflow, prepare, restore
from lego_serve.gateway.media.codec import encode_file, enlarge
from lego_serve.gateway.requests.job_request import ImageJobRequest, in_request_words
from lego_serve.gateway.requests.workflows import applicant_for
from lego_serve.gateway.responses import encode_files, response_metadata
from lego_serve.gateway.run_job import bounded
from lego_serve.gateway.settings import Caller
from lego_serve.jobstore.running.leftovers import drop_unneeded
from lego_serve.jobstore.sweeping import change
from lego_serve.process.log_facts import LogFacts, log_facts, logged_with

log = logging.getLogger("lego_serve.jobs")
PAUSE_S = 1.0  # before what the store, or the nodes, could not do is tried again
MAX_PAUSE_S = 10.0  # the same, whatever an error says: the job's place is taken meanwhile
PREVIEW_QUALITY = 80  # of JPEG
TAKEN_AWAY = (JobEnded, StaleAttempt, NotFound)


class JobAttempt:
    """Runs a claimed job; ``prepared`` and ``place`` where the request has just been read and admitted here."""

    def __init__(
        self, parts: JobParts, record: JobRecord, prepared: ImageJobRequest | None = None, place: Place | None = None
    ) -> None:
        self._parts, self._prepared, self._place = parts, prepared, place
        self.record, self.number = record, record.attempt
        self._checkpoints: JobCheckpoints | None = None
        self._reports: LaneReports | None = None
        self._told: StoredProgress | None = None
        self._has_news = asyncio.Event()
        self._previews: set[asyncio.Task[None]] = set()
        self._has_shown = False
        self._started_s = time.monotonic()

    async def run(self) -> None:
        """Run the job and write how it ended; returns early where another has it.  Cancelling leaves it as it is."""
        with logged_with(LogFacts(job_id=self.record.id, tenant=self.record.request.tenant)):
            with ExitStack() as scope:
                if self._place is not None:
                    scope.push(self._place)
                decide = await self._decide(scope)
            await self._write(decide)

    async def give_back(self) -> None:
        """Queue the job again, with its newest checkpoint; after ``run`` was cancelled, as this gateway stops."""
        try:
            if self._checkpoints is not None and self._checkpoints.is_new:
                await self._checkpoints.store(self._parts.checkpoints.write)
            self._tell(await change(self._parts.store, self.record, lambda record: hand_over(record, self.number)))
        except TAKEN_AWAY:  # also where `run` was cancelled between the end that it wrote and what is to do after one
            await self._parts.drop_refused(self.record)
        except StoreUnavailable:
            log.warning("job %s could not be given back; another gateway takes it when the lease ends", self.record.id)

    async def _decide(self, scope: ExitStack) -> Decide:
        """Run the job and return what to write about it."""
        try:
            result = await self._images(scope)
        except LegoError as error:
            outcome = error.code
            self._note(error)
            decide = decision_about(error, self.number, self._parts.wall())
            if isinstance(error, NOT_NOW):
                await asyncio.sleep(min(error.retry_after_s or PAUSE_S, MAX_PAUSE_S))
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("job %s met an unexpected error", self.record.id)
            unexpected = LegoError("Something unexpected went wrong on the server.")
            self._note(unexpected)
            outcome, decide = unexpected.code, decision_about(unexpected, self.number, self._parts.wall())
        else:
            outcome, now = "ok", self._parts.wall()
            decide = lambda record: complete(record, self.number, result, now)  # noqa: E731 - one of two
        seconds = time.monotonic() - self._started_s
        self._parts.context.metrics.record_outcome(self.record.request.workflow, outcome, seconds)
        return decide

    def _note(self, error: LegoError) -> None:
        if self._place is not None:
            self._place.note(error)

    async def _images(self, scope: ExitStack) -> Mapping[str, Json]:
        """Make the job's images, keep them as files, and return what its record says of them.  Raises LegoError."""
        context, record = self._parts.context, self.record
        job_request = self._prepared or await self._prepare(scope)
        if job_request.result is not None:
            job = job_request.to_job(record.id, context.runner.now())
            return await self._keep(job_request, job, job_request.result)
        job_request = await self._settled(job_request)
        job = self._job(job_request, scope.enter_context(context.job_ids.reserve(record.id.removeprefix("job_"))))
        await self._resume(job_request)
        with context.tracing.durable_job(job, record.request.model, record.request.traceparent) as span:
            log_facts().trace_id = span.trace_id
            try:
                result = await self._run_unless_lost(job)
            except LegoError as error:
                span.failed(job_request.workflow, error, context.runner.now())
                if isinstance(error, RequestError):
                    raise in_request_words(error, job_request.body) from error
                raise
            span.completed(job_request.workflow, result, context.runner.now())
        context.record_result(job_request.workflow, job, result)
        context.quality_checks.consider(job, result)
        return await self._keep(job_request, job, result)

    async def _run_unless_lost(self, job: Job) -> JobResult:
        """Run the job, as long as no other gateway has it.  Raises LegoError."""
        keeping = asyncio.ensure_future(self._keep_up())
        running = asyncio.ensure_future(self._parts.context.runner.run(job, self.note, self._checkpoints))
        try:
            await asyncio.wait({running, keeping}, return_when=asyncio.FIRST_COMPLETED)
            if not running.done():
                running.cancel()
                await asyncio.wait({running})
                raise StaleAttempt("Another gateway has the job.")
            return running.result()
        finally:
            keeping.cancel()
            running.cancel()

    async def _prepare(self, scope: ExitStack) -> ImageJobRequest:
        """Read the stored request, take a place for it, and decode its images.  Raises LegoError."""
        context, record = self._parts.context, self.record
        request, files = record.request, self._parts.files
        await drop_unneeded(record, files)  # of earlier attempts
        caller = Caller(request.tenant, is_admin=False, weight=context.settings.weight_of(request.tenant))
        try:
            submission = await asyncio.to_thread(restore, request, lambda digest: files.read_input(record.id, digest))
        except StoreUnavailable as error:
            raise InputsUnavailable(error.message) from error
        except (ValueError, NotFound) as error:
            raise LegoError("The stored request cannot be read any more.", code="job_damaged") from error
        workflow = await choose_workflow(context, caller, submission)
        self._place = context.admission.reserve(applicant_for(caller, workflow, submission.body))
        scope.enter_context(self._place)
        return await prepare(context, caller, submission, workflow)

    async def _settled(self, job_request: ImageJobRequest) -> ImageJobRequest:
        """Return the request in the tier of its first attempt: another tier would be another image, begun again."""
        kept = self.record.tier
        if kept is not None:
            return job_request.kept_in(kept.name, kept.lowered_from, self._parts.context.settings.tiers)
        if job_request.body.tier_floor is not None:
            tier = SettledTier(job_request.tier.tier, job_request.tier.lowered_from)
            try:
                self._tell(await change(self._parts.store, self.record, lambda each: settle(each, self.number, tier)))
            except StoreUnavailable:
                log.warning("the tier of job %s cannot be written; another attempt chooses anew", self.record.id)
        return job_request

    def _job(self, job_request: ImageJobRequest, run_id: str) -> Job:
        """Return the job, whose time has run since it was accepted."""
        context, deadline_at = self._parts.context, self.record.request.deadline_at
        now = context.runner.now()
        job = job_request.to_job(run_id, now)
        deadline_s = None if deadline_at is None else now + deadline_at - self._parts.wall()
        stream = StreamOptions(previews=job.stream.previews, steps=True)
        return bounded(context, replace(job, deadline_s=deadline_s, stream=stream))

    async def _resume(self, job_request: ImageJobRequest) -> None:
        """Find out where an earlier attempt has left the job's lanes."""
        record, images = self.record, job_request.inputs.get("n", 1)
        earlier = None
        if self.number > 1:
            earlier = await self._earlier()
        self._checkpoints = JobCheckpoints(record.id, self.number, job_hash(job_request.workflow, record), earlier)
        self._reports = LaneReports(images if isinstance(images, int) else 1)

    def note(self, progress: JobProgress) -> None:
        """Take a report of a lane; a preview is for whoever watches."""
        assert self._reports is not None, "a job that runs has been made ready"
        self._reports.note(progress)
        self._has_news.set()
        if progress.preview is not None:
            task = asyncio.ensure_future(self._show(progress, progress.preview))
            self._previews.add(task)
            task.add_done_callback(self._previews.discard)

    async def _show(self, progress: JobProgress, preview: GeneratedImage) -> None:
        larger = enlarge(preview, preview.width * 8, preview.height * 8)
        file = await self._parts.context.images.write(encode_file, larger, "jpeg", PREVIEW_QUALITY)
        self._has_shown = True
        event = JobPreview(self.record.id, progress.index, progress.step, progress.steps, file)
        self._parts.watchers.tell(event)
        with suppress(StoreUnavailable):  # those who watch through other gateways miss one
            await self._parts.previews.put(self.number, event)

    async def _keep_up(self) -> None:
        """Write down how far the job is, until another has it."""
        checkpointed_s = time.monotonic()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._parts.settings.checkpoint_s):
                    await self._has_news.wait()
            self._has_news.clear()
            try:
                await self._store_progress()
                if time.monotonic() - checkpointed_s >= self._parts.settings.checkpoint_s:
                    checkpointed_s = time.monotonic()
                    await self._store_checkpoint()
            except TAKEN_AWAY:
                return
            except StoreUnavailable:
                await asyncio.sleep(PAUSE_S)
            await asyncio.sleep(self._parts.settings.progress_s)

    async def _store_progress(self) -> None:
        summary = None if self._reports is None else self._reports.summary()
        if summary is None or summary == self._told:
            return
        told = summary
        self._tell(await change(self._parts.store, self.record, lambda record: progressed(record, self.number, told)))
        self._told = summary

    async def _store_checkpoint(self) -> None:
        """Write a checkpoint, unless there is nothing new or the job is about to end."""
        eta_s = 0.0 if self._told is None else self._told.eta_s or 0.0
        if self._checkpoints is not None and self._checkpoints.is_new and eta_s > self._parts.settings.checkpoint_s:
            await self._checkpoints.store(self._parts.checkpoints.write)

    async def _earlier(self) -> JobCheckpoint | None:
        """Return what an earlier attempt has left; nothing where that cannot be read now."""
        try:
            return await self._parts.checkpoints.latest(self.record.id)
        except StoreUnavailable:
            log.warning("the checkpoint of job %s cannot be read; it starts again", self.record.id)
            return None

    async def _drop_running(self) -> None:
        """Remove what an ended job needs no more; what cannot be removed now goes with the job."""
        with suppress(StoreUnavailable):
            await self._parts.checkpoints.delete(self.record.id)
        if self._has_shown:
            with suppress(StoreUnavailable):
                await self._parts.previews.delete(self.record.id)
        await drop_unneeded(self.record, self._parts.files)

    async def _keep(self, job_request: ImageJobRequest, job: Job, result: JobResult) -> dict[str, Any]:
        """Write the images to files and return what the record says of them.  Raises StoreUnavailable."""
        body = job_request.body
        cards = []
        contents = await encode_files(self._parts.context.images, body, job, result)
        for index, (image, content) in enumerate(zip(result.images, contents, strict=True)):
            digest = await self._parts.keep_result(self.record, index, content, body.output_format)
            card = {"sha256": digest, "bytes": len(content), "seed": image.seed}
            cards.append(card | {"width": image.width, "height": image.height})
        return response_metadata(body, job, result) | {"created": int(self._parts.wall()), "images": cards}

    async def _write(self, decide: Decide) -> None:
        """Write the end of the attempt, as soon as the store can be reached; the images lie on the disk meanwhile."""
        while True:
            try:
                self._tell(await change(self._parts.store, self.record, decide))
                break
            except TAKEN_AWAY as error:
                log.info("job %s has ended elsewhere: %s", self.record.id, error.message)
                await self._parts.drop_refused(self.record)  # what was written after that is left
                return
            except StoreUnavailable:
                await asyncio.sleep(PAUSE_S)
        if self.record.status.has_ended:
            await self._drop_running()

    def _tell(self, record: JobRecord) -> None:
        self.record = record
        self._parts.written(record)
