"""Answers about durable jobs: the job itself, its result, and its events."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from lego_serve.core.durable_jobs.preview import JobPreview
from lego_serve.core.durable_jobs.record import JobRecord, JobStatus
from lego_serve.errors import StoreUnavailable
from lego_serve.gateway.context import Context
from lego_serve.gateway.errors import JobsDisabled, ServerStopping, settle
from lego_serve.gateway.jobs.image_stream import image_events
from lego_serve.gateway.jobs.job_object import JOBS, image_path, job_object, result_metadata, result_with_links
from lego_serve.gateway.jobs.outcomes import stored_error
from lego_serve.gateway.jobs.preferences import Preferences
from lego_serve.gateway.jobs.service import DurableJobs, Submitted, images_of
from lego_serve.gateway.jobs.submission import Submission
from lego_serve.gateway.jobs.watching import JobEvent
from lego_serve.gateway.links.public_url import base_url
from lego_serve.gateway.links.requested import links_start
from lego_serve.gateway.queue.times import Standing
from lego_serve.gateway.requests.job_request import ImageJobRequest
from lego_serve.gateway.run_job import while_connected
from lego_serve.gateway.settings import Caller
from lego_serve.gateway.stream import HEADERS, PING

MIN_POLL_S, MAX_POLL_S = 0.25, 5.0
REPLAYED = {"idempotency-replayed": "true"}


def jobs_of(context: Context) -> DurableJobs:
    """Return the gateway's durable jobs.  Raises JobsDisabled."""
    if context.jobs is None:
        raise JobsDisabled
    return context.jobs


async def answer_durably(
    context: Context, request: Request, caller: Caller, submission: Submission, preferences: Preferences
) -> Response:
    """Submit a request for images as a job, and answer the job, or its images where the client waits for them.

    Raises LegoError.
    """
    jobs = jobs_of(context)
    if preferences.is_async:
        submitted = await jobs.submit(caller, submission, request)
        return await answer_submitted(context, request, submitted, preferences)
    with ExitStack() as scope:
        await context.limits.hold(caller.tenant, scope)  # its client waits, as one does without a job
        with ExitStack() as offered:
            check = partial(_check_deadline, context, request, offered)
            submitted = await jobs.submit(caller, replace(submission, check=check), request)
        replayed = await _replayed(request, submitted)
        if submission.body.stream:
            events = image_events(context, jobs, submitted.record, submission.body)
            return _HeldStream(events, HEADERS | replayed, scope.pop_all())
        ending = asyncio.ensure_future(jobs.ended(submitted.record))
        record = await while_connected(context, request, ending)
    if not record.status.has_ended:
        raise ServerStopping
    return await answer_result(context, request, record, replayed)


async def _check_deadline(context: Context, request: Request, offered: ExitStack, prepared: ImageJobRequest) -> None:
    """Raise CapacityError for a request whose client waits and that would be late; it is offered until it is a job."""
    job_id = offered.enter_context(context.job_ids.reserve(request.state.request_id))
    await context.admission.check_deadline(prepared.to_job(job_id, context.runner.now()), offered)


async def _replayed(request: Request, submitted: Submitted) -> dict[str, str]:
    """Return the headers that say whether a job was accepted before, and settle what its request is to use."""
    await settle(request, is_replayed=submitted.is_replayed)
    return REPLAYED if submitted.is_replayed else {}


class _HeldStream(StreamingResponse):
    """Events; what is held meanwhile is let go after the last of them, or when the client leaves."""

    def __init__(self, events: AsyncIterator[bytes], headers: Mapping[str, str], held: ExitStack) -> None:
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them; a client may be gone before the first."""
        with self._held:
            await super().__call__(scope, receive, send)


async def answer_submitted(
    context: Context, request: Request, submitted: Submitted, preferences: Preferences
) -> Response:
    """Answer the submission of a job: 202 and the job, or 200 where it ended in the time that the client waits."""
    jobs, record = jobs_of(context), submitted.record
    replayed = await _replayed(request, submitted)
    if preferences.wait_s is not None:
        ending = asyncio.ensure_future(jobs.ended(record, preferences.wait_s))
        record = await while_connected(context, request, ending)
    headers = {"location": f"{JOBS}/{record.id}"} | replayed
    if preferences.applied:
        headers["preference-applied"] = preferences.applied
    return await answer_job(context, request, record, 200 if record.status.has_ended else 202, headers)


async def answer_job(
    context: Context, request: Request, record: JobRecord, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """Answer a job as it is; while it waits or runs, headers say when to ask again."""
    shown = await describe(context, request, record)
    if not record.status.has_ended:
        poll_s = min(max(shown["eta_s"] or 1.0, MIN_POLL_S), MAX_POLL_S)
        headers = (headers or {}) | {
            "openai-poll-after-ms": str(round(poll_s * 1000)),
            "retry-after": str(max(1, round(poll_s))),
        }
    return JSONResponse(shown, status, headers)


async def describe(context: Context, request: Request, record: JobRecord) -> dict[str, Any]:
    """Return a job as answers show it; without its standing in the queue where the store has gone away meanwhile.

    Raises StoreUnavailable where it was away when the first link was to be signed.
    """
    jobs = jobs_of(context)
    signer, standing = await jobs.signer(), Standing()
    with suppress(StoreUnavailable):
        standing = await jobs.standing(record)
    return job_object(record, standing, base_url(context.settings, request), signer.sign)


async def answer_result(context: Context, request: Request, record: JobRecord, headers: dict[str, str]) -> Response:
    """Answer what a synchronous request would have been answered; 202 and the job where it has not ended.

    Raises the error that the job ended with.
    """
    error = stored_error(record)
    if error is not None:
        raise error
    if record.status is not JobStatus.COMPLETED:
        return await answer_job(context, request, record, 202, headers)
    assert record.result is not None, "a completed job has a result"
    jobs, cards = jobs_of(context), images_of(record)
    links = links_start(context, request, _response_format(record))
    if links is not None:
        return JSONResponse(result_with_links(record, links, (await jobs.signer()).sign), 200, headers)
    files = await asyncio.gather(*(jobs.image(record, index) for index in range(len(cards))))
    data = [
        {"b64_json": base64.b64encode(file).decode(), "seed": card["seed"]}
        for file, card in zip(files, cards, strict=True)
    ]
    content = {"created": record.result["created"], "data": data} | result_metadata(record)
    return JSONResponse(content, 200, headers)


def _response_format(record: JobRecord) -> str | None:
    """Return the format that a job's request asks for; None where it names none."""
    body = record.request.inputs.get("body")
    named = body.get("response_format") if isinstance(body, Mapping) else None
    return named if isinstance(named, str) else None


async def event_stream(context: Context, request: Request, record: JobRecord) -> AsyncIterator[bytes]:
    """Yield a job's events: each holds the whole job, and has the record's version as its id."""
    jobs = jobs_of(context)
    shown: dict[str, Any] = {}
    async for event in jobs.watch(record):
        if event is None:
            if context.draining.has_begun:
                return  # the client connects again, to another gateway
            yield PING
        elif isinstance(event, JobPreview):
            yield _event("job.preview", record.version, shown | {"preview": _preview(event)})
        else:
            record, shown = event, await describe(context, request, event)
            for index, _ in enumerate(images_of(record)):
                card = {"index": index, "path": image_path(record.id, index), **shown["result"]["data"][index]}
                yield _event("job.image", record.version, shown | {"image": card})
            name = record.status.value if record.status.has_ended else "progress"
            yield _event(f"job.{name}", record.version, shown)


def _preview(event: JobEvent) -> dict[str, Any]:
    assert isinstance(event, JobPreview), "only previews are shown so"
    return {
        "image_index": event.lane,
        "step": event.step,
        "steps": event.steps,
        "output_format": "jpeg",
        "b64_json": base64.b64encode(event.jpeg).decode(),
    }


def _event(name: str, version: int, content: dict[str, Any]) -> bytes:
    return f"event: {name}\nid: {version}\ndata: {json.dumps({'type': name} | content)}\n\n".encode()
