"""Answers a request as its job runs: OpenAI's server-sent events, previews before the images.

What goes wrong before the first event, or within a few seconds, is an ordinary HTTP error; later it is an event that
holds the error, which OpenAI's SDK raises.
"""

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Any, TypeAlias

from fastapi import Request
from fastapi.responses import StreamingResponse

from lego_serve.core.jobs.job import GeneratedImage, Job, JobProgress, JobResult
from lego_serve.errors import LegoError
from lego_serve.gateway.admission import Place
from lego_serve.gateway.context import Context
from lego_serve.gateway.errors import error_body, give_back_if_refused, log_error
from lego_serve.gateway.media.codec import encode, enlarge
from lego_serve.gateway.media.workers import ImageWorkers
from lego_serve.gateway.requests.job_request import ImageJobRequest
from lego_serve.gateway.requests.schemas import EditRequest
from lego_serve.gateway.responses import encode_images, quality_made, response_metadata
from lego_serve.gateway.run_job import run_job

log = logging.getLogger("lego_serve.gateway")
PATIENCE_S = 5.0  # how long headers wait for the first event, so that an early error has its own status
PING_S = 15.0
PREVIEW_QUALITY = 80  # of JPEG and WebP
HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}
PING = b": ping\n\n"

Item: TypeAlias = JobProgress | JobResult | LegoError


async def stream(
    context: Context, request: Request, job_request: ImageJobRequest, *, job: Job, place: Place, scope: ExitStack
) -> StreamingResponse:
    """Run a job and answer with its events; ``scope`` is closed when the job ends.

    Raises LegoError for what fails before the first event.
    """
    expected_at = context.admission.expected_at if job_request.body.stream_progress else None
    queue: asyncio.Queue[Item] = asyncio.Queue()
    running = asyncio.ensure_future(_run_into(queue, context, request, job_request, job=job, place=place, scope=scope))
    try:
        async with asyncio.timeout(PATIENCE_S):
            first: Item | None = await queue.get()
    except TimeoutError:
        first = None
    except BaseException:
        running.cancel()
        raise
    if isinstance(first, LegoError):
        raise first
    writer = EventWriter(context.images, job_request, job)
    waiting = None
    if first is None and expected_at is not None:
        waiting = writer.waiting(max(0.0, expected_at - context.runner.now()))
    events = _events(writer, queue, first, running, waiting)
    return StreamingResponse(events, media_type="text/event-stream", headers=HEADERS)


async def _run_into(
    queue: asyncio.Queue[Item],
    context: Context,
    request: Request,
    job_request: ImageJobRequest,
    *,
    job: Job,
    place: Place,
    scope: ExitStack,
) -> None:
    """Run a job and put its progress, and its result or error, into the queue."""
    try:
        with scope:
            result = await run_job(context, request, job_request, job, place=place, on_progress=queue.put_nowait)
    except LegoError as error:
        await give_back_if_refused(request, error)  # which may be told in an event, past whoever answers errors
        queue.put_nowait(error)
    except Exception:
        log.exception("unexpected error")
        queue.put_nowait(LegoError("Something unexpected went wrong on the server."))
    else:
        queue.put_nowait(result)


async def _events(
    writer: "EventWriter",
    queue: asyncio.Queue[Item],
    first: Item | None,
    running: asyncio.Future[None],
    waiting: bytes | None,
) -> AsyncIterator[bytes]:
    """Yield the events of a job, and pings while there are none; cancel the job when the client leaves.

    ``waiting`` goes first: the event of a job that has made no step yet.
    """
    item = first
    try:
        if waiting is not None:
            yield waiting
        while True:
            match item:
                case JobProgress():
                    yield await writer.progress(item)
                case JobResult():
                    for event in await writer.completed(item):
                        yield event
                    return
                case LegoError():
                    log_error(item)
                    yield sse_event("error", error_body(item))
                    return
            try:
                async with asyncio.timeout(PING_S):
                    item = await queue.get()
            except TimeoutError:
                item = None
                yield PING
    finally:
        running.cancel()  # does nothing where the job has ended


class EventWriter:
    """Writes what happens to one job as server-sent events."""

    def __init__(self, workers: ImageWorkers, job_request: ImageJobRequest, job: Job) -> None:
        self._workers = workers
        self._body, self._job = job_request.body, job
        self._kind = "image_edit" if isinstance(job_request.body, EditRequest) else "image_generation"
        self._previews: Counter[int] = Counter()  # by image

    async def progress(self, progress: JobProgress) -> bytes:
        """Return the event of a job's progress: a partial image where there is a preview."""
        facts = {
            "image_index": progress.index,
            "step": progress.step,
            "steps": progress.steps,
            "eta_s": round(progress.eta_s, 3),
        }
        if progress.preview is None:
            return sse_event(f"{self._kind}.progress", facts)
        return await self._partial_image(progress.preview, facts)

    def waiting(self, eta_s: float) -> bytes:
        """Return the event of a job's progress before its first step, with when its images are expected."""
        steps = self._job.inputs.get("steps")
        facts = {"image_index": 0, "step": 0, "steps": steps if isinstance(steps, int) else 0}
        return sse_event(f"{self._kind}.progress", facts | {"eta_s": round(eta_s, 3)})

    async def completed(self, result: JobResult) -> list[bytes]:
        """Return one event for each image of a result."""
        files = await encode_images(self._workers, self._body, self._job, result)
        metadata = response_metadata(self._body, self._job, result)
        common = metadata | {"created_at": int(time.time())}
        events = []
        for index, (file, image) in enumerate(zip(files, result.images, strict=True)):
            facts = metadata["lego"] | {"image_index": index, "seed": image.seed}
            data = common | {"b64_json": file, "seed": image.seed, "lego": facts}
            events.append(sse_event(f"{self._kind}.completed", data))
        return events

    async def _partial_image(self, preview: GeneratedImage, facts: dict[str, Any]) -> bytes:
        width, height = int(str(self._job.inputs["width"])), int(str(self._job.inputs["height"]))
        output_format = self._body.output_format
        file = await self._workers.write(_encode_preview, preview, width, height, output_format)
        image_index = int(facts["image_index"])
        index = self._previews[image_index]
        self._previews[image_index] += 1
        return sse_event(
            f"{self._kind}.partial_image",
            {
                "b64_json": file,
                "partial_image_index": index,
                "created_at": int(time.time()),
                "size": f"{width}x{height}",
                "quality": quality_made(self._job),
                "background": "opaque",
                "output_format": output_format,
                "lego": facts,
            },
        )


def _encode_preview(image: GeneratedImage, width: int, height: int, output_format: str) -> str:
    compression = None if output_format == "png" else PREVIEW_QUALITY
    return encode(enlarge(image, width, height), output_format, compression)


def sse_event(name: str, data: dict[str, Any]) -> bytes:
    content = data if name == "error" else {"type": name} | data
    return f"event: {name}\ndata: {json.dumps(content)}\n\n".encode()
