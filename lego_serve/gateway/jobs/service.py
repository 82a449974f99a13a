"""Durable jobs as the gateway's routes see them: submit, read, watch, cancel, delete."""

import asyncio
import random
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from fastapi import Request

from lego_serve.core.durable_jobs.idempotency import check_replay
from lego_serve.core.durable_jobs.ids import RANDOM_BYTES, is_job_id, job_id
from lego_serve.core.durable_jobs.inputs import StoredInputs
from lego_serve.core.durable_jobs.record import JobRecord, JobRequest
from lego_serve.core.durable_jobs.store import JobPage, JobQuery, JobSize, JobStore, Room
from lego_serve.core.durable_jobs.transitions import cancel, claim, submit
from lego_serve.core.scheduling.admission import Applicant
from lego_serve.core.workflow.graph import Workflow
from lego_serve.errors import CapacityError, JobEnded, NotFound
from lego_serve.gateway.admission import Place, applicant_of
from lego_serve.gateway.context import Context
from lego_serve.gateway.jobs.parts import JobParts, JobStorage
from lego_serve.gateway.jobs.submission import Submission, choose_workflow, prepare, size_of
from lego_serve.gateway.jobs.watching import JobEvent, events_of
from lego_serve.gateway.jobs.worker import JobWorker
from lego_serve.gateway.links.signed_urls import UrlSigner, url_signer
from lego_serve.gateway.queue.times import Standing
from lego_serve.gateway.requests.job_request import ImageJobRequest
from lego_serve.gateway.settings import Caller
from lego_serve.jobstore.blobs.port import Blobs
from lego_serve.jobstore.files import JobFiles
from lego_serve.jobstore.sweeping import change
from lego_serve.webhooks.sender import WebhookSender
from lego_serve.webhooks.settings import WebhookSettings

PING_S = 15.0


@dataclass(frozen=True, slots=True)
class Submitted:
    """An accepted job; ``is_replayed`` where it was accepted before, under the same idempotency key."""

    record: JobRecord
    is_replayed: bool = False


class DurableJobs:
    """The durable jobs of one gateway."""

    def __init__(self, parts: JobParts, webhooks: WebhookSettings) -> None:
        self._parts, self._webhooks = parts, webhooks
        count = parts.context.metrics.count_webhook
        self._sender = WebhookSender(parts.store, webhooks, parts.wall, random.random, on_outcome=count)
        parts.watchers.on_end = self._sender.wake
        self._sending: asyncio.Future[None] | None = None
        self.worker = JobWorker(parts)
        self._signer: UrlSigner | None = None

    @property
    def store(self) -> JobStore:
        """The store of records."""
        return self._parts.store

    @property
    def files(self) -> JobFiles:
        """The files of all jobs."""
        return self._parts.files

    @property
    def blobs(self) -> Blobs:
        """Where files of jobs are kept, and what else all gateways share."""
        return self._parts.files.blobs

    async def submit(self, caller: Caller, submission: Submission, request: Request) -> Submitted:
        """Accept a job; it is stored when this returns, and runs at once where nobody waits.

        The answer to ``request`` is told what is left of its tenant's limits.  Raises RequestError, CapacityError,
        StoreUnavailable, IdempotencyKeyReused.
        """
        mark, webhook = submission.mark, submission.options.webhook
        if webhook is not None:
            self._webhooks.check(caller.tenant, webhook.url)
        if submission.key is not None:
            earlier = await self.store.find(caller.tenant, submission.key)
            if earlier is not None:
                check_replay(earlier, mark)
                self._log(earlier, submission)
                return Submitted(earlier, is_replayed=True)
        context = self._parts.context
        workflow = await choose_workflow(context, caller, submission)
        room = self._room(caller)
        room.check(await self.store.held(caller.tenant))  # before anything is decoded; `put` checks again
        seeded = submission.with_seed()
        with ExitStack() as accepting:
            if submission.has_images:
                accepting.enter_context(context.admission.accepting(Applicant(caller.tenant, caller.weight)))
            prepared = await prepare(context, caller, seeded, workflow)
            await context.limits.charge(caller.tenant, prepared.work(context.settings.tiers), request)
            stored = seeded.store()
            record = self._record(caller, seeded, stored, workflow, mark)
            await self._write_inputs(record, stored)
        submitted = await self._put(record, prepared, size_of(stored), room)
        self._log(submitted.record, submission)
        return submitted

    async def get(self, caller: Caller, job_id: str) -> JobRecord:
        """Return one of the caller's jobs.  Raises NotFound, StoreUnavailable."""
        record = await self.store.get(job_id) if is_job_id(job_id) else None
        if record is None or record.request.tenant != caller.tenant:
            raise _no_job()
        return record

    async def page(self, query: JobQuery) -> JobPage:
        """Return jobs of one tenant.  Raises StoreUnavailable."""
        return await self.store.page(query)

    async def standing(self, record: JobRecord) -> Standing:
        """Return how many of its tenant's jobs are claimed before this one, and when it is expected to end."""
        return await self._parts.queue.standing(record)

    async def etas_s(self, tenant: str) -> Mapping[str, float]:
        """Return in how many seconds each of a tenant's queued jobs is expected to end, as far as that is known."""
        return await self._parts.queue.etas_s(tenant)

    async def cancel(self, caller: Caller, job_id: str) -> JobRecord:
        """End one of the caller's jobs; one that has ended stays as it is.  Raises NotFound, StoreUnavailable."""
        record = await self.get(caller, job_id)
        now = self._parts.wall()
        try:
            record = await change(self.store, record, lambda known: cancel(known, now))
        except JobEnded:
            return await self.get(caller, job_id)
        self.worker.stop(job_id)
        self._parts.written(record)
        await self._parts.drop_running(record)
        return record

    async def delete(self, caller: Caller, job_id: str) -> None:
        """End one of the caller's jobs and forget it, its key and its files.  Raises NotFound, StoreUnavailable."""
        record = await self.cancel(caller, job_id)
        while not await self.store.forget(record):
            record = await self.get(caller, job_id)
        await self.worker.delete_files([job_id])

    async def image(self, record: JobRecord, index: int) -> bytes:
        """Return an image of a completed job, as a file.  Raises NotFound."""
        result = record.result
        if result is None or not 0 <= index < len(images_of(record)):
            raise NotFound("This job has no such image.", param="index", code="image_not_found")
        files, image_format = self._parts.files, str(result["output_format"])
        return await asyncio.to_thread(files.read_result, record.id, record.attempt, index, image_format)

    async def find_image(self, record: JobRecord, index: int) -> Path | bytes:
        """Return an image of a completed job: its file on this machine, or else its content.  Raises NotFound."""
        assert record.result is not None, "a job with images has a result"
        image_format = str(record.result["output_format"])
        return await asyncio.to_thread(self._parts.files.find_result, record.id, record.attempt, index, image_format)

    async def signer(self) -> UrlSigner:
        """Return what signs links to images.  Raises StoreUnavailable."""
        if self._signer is None:
            self._signer = await url_signer(self.store)
        return self._signer

    async def open_link(self, path: str, job_id: str, expires: str | None, signature: str | None) -> JobRecord:
        """Return the job whose image a signed link opens.  Raises Unauthorized, NotFound, StoreUnavailable."""
        (await self.signer()).check(path, expires, signature, self._parts.wall())
        record = await self.store.get(job_id) if is_job_id(job_id) else None
        if record is None:
            raise _no_job()
        return record

    def watch(self, record: JobRecord) -> AsyncIterator[JobEvent | None]:
        """Yield a job's state now, then changes and previews, and the end last; None while there is no news."""
        return events_of(self._parts.watchers, record, self.store.get, PING_S, self._parts.wall)

    def is_watched(self, job_id: str) -> bool:
        """Whether anybody watches a job through this gateway."""
        return self._parts.watchers.are_interested_in(job_id)

    async def ended(self, record: JobRecord, timeout_s: float | None = None) -> JobRecord:
        """Wait for a job's end, for so long at most; return the job as it is then."""
        try:
            async with asyncio.timeout(timeout_s):
                async for event in self.watch(record):
                    if isinstance(event, JobRecord):
                        record = event
        except TimeoutError:
            pass
        return record

    def start(self) -> None:
        """Begin to run jobs and to send webhooks."""
        self.worker.start()
        self._sending = asyncio.ensure_future(self._sender.run())

    async def close(self) -> None:
        """Give back what runs here, and stop sending."""
        await self.worker.close()
        await self._sender.close()
        if self._sending is not None:
            await self._sending
        await self._parts.checkpoints.close()
        await self._parts.previews.close()
        await self.store.close()

    def _log(self, record: JobRecord, submission: Submission) -> None:
        self._parts.context.log_job(record.id, submission.body.prompt)

    def _room(self, caller: Caller) -> Room:
        settings = self._parts.settings
        usual = Room(settings.max_queued, settings.max_stored_bytes)
        return self._parts.context.limits.room(caller.tenant, usual)

    def _record(
        self, caller: Caller, submission: Submission, stored: StoredInputs, workflow: Workflow, mark: str
    ) -> JobRecord:
        """Return the record of a request's job."""
        now, options = self._parts.wall(), submission.options
        given_ms = [each for each in (options.deadline_ms, submission.body.deadline_ms) if each is not None]
        deadline_ms = min(given_ms, default=None)
        request = JobRequest(
            endpoint=submission.endpoint,
            workflow=workflow.name,
            model=submission.body.model or workflow.name,
            inputs=stored.values,
            seed=submission.body.seed or 0,
            tenant=caller.tenant,
            priority=options.priority,
            deadline_at=None if deadline_ms is None else now + deadline_ms / 1000,
            metadata=options.metadata,
            webhook=options.webhook,
            key=submission.key,
            fingerprint=mark,
            traceparent=options.traceparent,
        )
        name = job_id(now, secrets.token_bytes(RANDOM_BYTES))
        return submit(name, request, now, self._parts.settings.retention)

    async def _write_inputs(self, record: JobRecord, stored: StoredInputs) -> None:
        """Write the request's images to files.  Raises StoreUnavailable."""
        for content in stored.contents.values():
            await asyncio.to_thread(self._parts.files.write_input, record.id, content)

    async def _put(self, record: JobRecord, prepared: ImageJobRequest, size: JobSize, room: Room) -> Submitted:
        """Store a job, claimed already where it may run at once.  Raises CapacityError where there is no room."""
        place = self._place(prepared, record)
        if place is not None:
            record = claim(record, self._parts.settings.owner, self._parts.wall()).record
        try:
            kept = await self.store.put(record, size, room)
        except BaseException as error:
            if place is not None:  # a job that was stored all the same is found by `lost_claims`
                place.release(is_done=False)
            if isinstance(error, CapacityError):
                await self.worker.delete_files([record.id])
            raise
        if kept.id != record.id:
            if place is not None:
                place.release(is_done=False)
            await self.worker.delete_files([record.id])
            check_replay(kept, record.request.fingerprint or "")
            return Submitted(kept, is_replayed=True)
        if place is None:
            self.worker.wake()
        else:
            self.worker.adopt(kept, prepared, place)
        return Submitted(kept)

    def _place(self, prepared: ImageJobRequest, record: JobRecord) -> Place | None:
        """Return a place among the pending jobs; None where the job is to wait its turn."""
        if not self.worker.has_room:
            return None
        try:
            return self._parts.context.admission.reserve(applicant_of(prepared.to_job(record.id, 0.0)))
        except CapacityError:
            return None


def with_durable_jobs(context: Context, storage: JobStorage) -> Context:
    """Return the gateway's parts with durable jobs, which begin when they are started."""
    jobs = DurableJobs(JobParts.over(context, storage), storage.webhooks)
    context.on_close.append(jobs.close)
    return replace(context, jobs=jobs)


def images_of(record: JobRecord) -> list[dict[str, object]]:
    """Return what the record of a completed job says of each of its images; empty for another."""
    images = (record.result or {}).get("images")
    return images if isinstance(images, list) else []


def _no_job() -> NotFound:
    return NotFound("There is no job of this id, or not any more.", param="job_id", code="job_not_found")
