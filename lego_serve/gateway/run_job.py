"""Runs a request's job in its place, waits for it as long as the client is there, and records how it ended."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

from fastapi import Request
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from lego_serve.core.jobs.job import Job, JobProgress, JobResult
from lego_serve.core.jobs.ports import OnProgress
from lego_serve.errors import JobCancelled, LegoError, RequestError
from lego_serve.gateway.admission import Place
from lego_serve.gateway.context import Context
from lego_serve.gateway.errors import CUT_SHORT_AS, ServerStopping
from lego_serve.gateway.requests.job_request import ImageJobRequest, in_request_words
from lego_serve.gateway.telemetry.tracing import JobSpan
from lego_serve.gateway.transport.departures import departure
from lego_serve.metrics import UNKNOWN_WORKFLOW, Metrics

Result = TypeVar("Result")


class RequestRecord:
    """What is recorded of one request: its workflow as soon as that is known, and since when it runs."""

    def __init__(self) -> None:
        self.workflow = UNKNOWN_WORKFLOW
        self.started_s = time.monotonic()
        self.is_durable = False  # a durable job, which is recorded where it runs

    def begin(self, workflow: str) -> None:
        """Its body has been read, and this is its workflow: the request's duration counts from now on."""
        self.workflow, self.started_s = workflow, time.monotonic()


@contextmanager
def record_outcome(metrics: Metrics, request: Request) -> Iterator[RequestRecord]:
    """Count a request by how the block ends, and its duration.

    A client that leaves is ``job_cancelled``, whoever notices: a cancelled task here is one whose client has left.  To
    one that the transport has refused meanwhile, for a body that is too slow or is none, it says which error it was.
    """
    record, outcome = RequestRecord(), "ok"
    try:
        yield record
    except LegoError as error:
        outcome = error.code
        raise
    except (asyncio.CancelledError, ClientDisconnect):
        outcome = request.scope["state"].get(CUT_SHORT_AS, JobCancelled.code)
        raise
    except HTTPException:
        outcome = "bad_request"
        raise
    except BaseException:
        outcome = LegoError.code
        raise
    finally:
        if record.is_durable:
            pass
        elif record.workflow == UNKNOWN_WORKFLOW:
            metrics.count_refused(outcome)
        else:
            metrics.record_outcome(record.workflow, outcome, time.monotonic() - record.started_s)


async def run_job(
    context: Context,
    request: Request,
    job_request: ImageJobRequest,
    job: Job,
    *,
    place: Place,
    on_progress: OnProgress | None = None,
) -> JobResult:
    """Run a request's job, unless its result is known already; its place is free when this returns.

    Raises LegoError, such as JobCancelled where the client leaves.
    """
    if job_request.result is not None:
        place.release(is_done=False, ending="completed")  # it says nothing about the pace of jobs
        return job_request.result
    model = job_request.body.model or job_request.workflow.name
    with place, context.tracing.request_job(job, model, is_streamed=bool(job_request.body.stream)) as span:
        tell = None if on_progress is None else _noting_the_first(span, on_progress)
        running = asyncio.ensure_future(context.runner.run(bounded(context, job), tell))
        try:
            result = await while_connected(context, request, running)
        except LegoError as error:
            span.failed(job_request.workflow, error, context.runner.now())
            if isinstance(error, RequestError):
                raise in_request_words(error, job_request.body) from error
            raise
        span.chunk()
        span.completed(job_request.workflow, result, context.runner.now())
    context.record_result(job_request.workflow, job, result)
    context.quality_checks.consider(job, result)
    return result


def _noting_the_first(span: JobSpan, on_progress: OnProgress) -> OnProgress:
    """Return what reports progress and notes in the job's span when that began."""

    def report(progress: JobProgress) -> None:
        span.chunk()
        on_progress(progress)

    return report


def bounded(context: Context, job: Job) -> Job:
    """Return a job that ends as the server's limits say, whatever deadline its caller named."""
    return replace(job, latest_s=context.settings.deadlines.latest(job.submitted_s, job.deadline_s))


async def while_connected(context: Context, request: Request, running: "asyncio.Future[Result]") -> Result:
    """Return what a job comes to; cancel it when the client leaves or the server's last time is up.

    Raises LegoError.
    """
    leaving = departure(request.scope) or asyncio.ensure_future(_disconnected(request))
    try:
        with context.draining.cancelling(leaving):
            await asyncio.wait((running, leaving), return_when=asyncio.FIRST_COMPLETED)
        if running.cancelled():
            raise JobCancelled("The job was cancelled.")
        if running.done():
            return running.result()
        if leaving.cancelled():
            raise ServerStopping()
        raise JobCancelled("The client left before the image was ready.")
    finally:
        leaving.cancel()
        if not running.done():
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
