"""One request as one job: submitted, awaited for as long as its client is there, and answered."""

import asyncio
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from fastapi import Request
from fastapi.responses import JSONResponse

from lego_serve.core.jobs.job import Job, JobProgress, JobResult
from lego_serve.core.jobs.progress import StreamOptions
from lego_serve.core.workflow.bind import bind
from lego_serve.core.workflow.graph import Workflow
from lego_serve.errors import CapacityError, JobCancelled, LegoError, RequestError, with_param
from lego_serve.gateway.context import Context
from lego_serve.gateway.requests.schemas import REQUEST_NAMES, ImageRequest
from lego_serve.gateway.responses import encode_images, response_metadata
from lego_serve.gateway.settings import Caller

OnProgress = Callable[[JobProgress], None]


@dataclass(frozen=True, slots=True)
class ImageJobRequest:
    """What a request asks for: a workflow, the body, values that do not stand in it as such, and who asks."""

    workflow: Workflow
    body: ImageRequest
    extra: Mapping[str, object]
    caller: Caller
    result: JobResult | None = None  # known without running anything

    def job(self, name: str, now: float) -> Job:
        """The job of it.  Raises RequestError."""
        given = self.body.inputs() | dict(self.extra)
        if "seed" in self.workflow.inputs and "seed" not in given:
            given["seed"] = secrets.randbelow(2**32)
        inputs = bind_request(self.workflow, given)
        deadline = None if self.body.deadline_ms is None else now + self.body.deadline_ms / 1000
        listen = StreamOptions(self.body.partial_images or 0, bool(self.body.stream_progress))
        return Job(name, self.workflow.name, inputs, now, deadline, self.caller.tenant, self.caller.weight, listen)


async def answer(context: Context, request: Request, order: ImageJobRequest) -> JSONResponse:
    """Run one request as a job and answer with its images."""
    with record_outcome(context, order), context.job_ids.taken(request) as name:
        job = order.job(name, context.runner.now())
        result = await run_job(context, request, order, job)
        files = await encode_images(order.body, result)
        data = [{"b64_json": file, "seed": p.seed} for file, p in zip(files, result.images, strict=True)]
        return JSONResponse({"created": int(time.time()), "data": data} | response_metadata(order.body, job, result))


@contextmanager
def record_outcome(context: Context, order: ImageJobRequest) -> Iterator[None]:
    """Count a request by how it ends."""
    started = time.monotonic()
    outcome = "ok"
    try:
        yield
    except LegoError as error:
        outcome = error.code
        raise
    except BaseException:
        outcome = "internal_error"
        raise
    finally:
        context.metrics.record_outcome(order.workflow.name, outcome, time.monotonic() - started)


async def run_job(
    context: Context, request: Request, order: ImageJobRequest, job: Job, tell: OnProgress | None = None
) -> JobResult:
    """Run the job unless too many are pending; a client that leaves cancels it."""
    if order.result is not None:
        return order.result
    if context.runner.in_flight >= context.settings.max_pending_jobs:
        context.metrics.count_rejected("over_capacity")
        raise CapacityError("Too many requests are pending; try again shortly.", retry_after_s=2)
    context.metrics.count_accepted()
    running = asyncio.ensure_future(context.runner.run(job, tell))
    leaving = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((running, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not running.done():
            raise JobCancelled("The client left before the image was ready.")
        try:
            result = running.result()
        except RequestError as error:
            raise in_request_words(error, order.body) from error
        context.metrics.record_result(order.workflow, result)
        context.quality_checks.ended(job, result)
        return result
    finally:
        context.metrics.count_left()
        for task in (running, leaving):
            task.cancel()
        await asyncio.gather(running, leaving, return_exceptions=True)


def bind_request(workflow: Workflow, given: Mapping[str, object]) -> dict[str, object]:
    """Values of the workflow's inputs; complaints name the request's field.  Raises RequestError."""
    try:
        return bind(workflow, given)
    except RequestError as error:
        raise in_request_words(error) from None


def in_request_words(error: RequestError, body: ImageRequest | None = None) -> RequestError:
    """An error about a workflow's input, about the request's field that gives it, or the entry of that in the body."""
    shown = REQUEST_NAMES.get(error.param or "") if body is None else body.field_of(error.param)
    return error if shown in (None, error.param) else with_param(error, shown)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
