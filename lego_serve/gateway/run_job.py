"""Runs a request's job: admits it, waits for it as long as the client is there, and records how it ended."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import Request

from lego_serve.core.jobs.job import Job, JobResult
from lego_serve.core.jobs.ports import OnProgress
from lego_serve.errors import JobCancelled, LegoError, RequestError
from lego_serve.gateway.context import Context
from lego_serve.gateway.errors import ServerStopping
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
            result = await _run_while_connected(context, request, job, on_progress)
        except RequestError as error:
            raise in_request_words(error, job_request.body) from error
    context.metrics.record_result(job_request.workflow, result)
    context.quality_checks.consider(job, result)
    return result


async def _run_while_connected(
    context: Context, request: Request, job: Job, on_progress: OnProgress | None
) -> JobResult:
    """Run a job and cancel it when the client disconnects or the server's last time is up.  Raises LegoError."""
    running = asyncio.ensure_future(context.runner.run(job, on_progress))
    leaving = asyncio.ensure_future(_disconnected(request))
    stopping = asyncio.ensure_future(context.draining.expired())
    tasks = (running, leaving, stopping)
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            return running.result()
        if stopping.done():
            raise ServerStopping()
        raise JobCancelled("The client left before the image was ready.")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
