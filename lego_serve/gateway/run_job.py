"""Runs a request's job: admits it, waits for it as long as the client is there, and records how it ended."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import Request

from lego_serve.core.jobs.job import Job, JobResult
from lego_serve.core.jobs.ports import JobRunner, OnProgress
from lego_serve.errors import JobCancelled, LegoError, RequestError
from lego_serve.gateway.context import Context
from lego_serve.gateway.requests.job_request import ImageJobRequest, in_request_words
from lego_serve.metrics import Metrics


@contextmanager
def record_outcome(metrics: Metrics, workflow: str) -> Iterator[None]:
    """Count a request for a workflow by how the block ends, and its duration."""
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
        metrics.record_outcome(workflow, outcome, time.monotonic() - started)


async def run_job(
    context: Context,
    request: Request,
    job_request: ImageJobRequest,
    job: Job,
    on_progress: OnProgress | None = None,
) -> JobResult:
    """Run a request's job, unless its result is known already.

    Raises LegoError: CapacityError where too many jobs are pending, JobCancelled where the client leaves.
    """
    if job_request.result is not None:
        return job_request.result
    with context.admission.reserve():
        try:
            result = await _run_while_connected(context.runner, request, job, on_progress)
        except RequestError as error:
            raise in_request_words(error, job_request.body) from error
    context.metrics.record_result(job_request.workflow, result)
    context.quality_checks.consider(job, result)
    return result


async def _run_while_connected(
    runner: JobRunner, request: Request, job: Job, on_progress: OnProgress | None
) -> JobResult:
    """Run a job and cancel it when the client disconnects.  Raises LegoError."""
    running = asyncio.ensure_future(runner.run(job, on_progress))
    leaving = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((running, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not running.done():
            raise JobCancelled("The client left before the image was ready.")
        return running.result()
    finally:
        for task in (running, leaving):
            task.cancel()
        await asyncio.gather(running, leaving, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
