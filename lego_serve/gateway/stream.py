"""A request answered as it is made: OpenAI's server-sent events, previews before the images.

What goes wrong before the first event, or within a few seconds, is an ordinary HTTP error; later it
is an event that holds the error, which OpenAI's SDK raises.
"""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import Request
from fastapi.responses import StreamingResponse

from lego_serve.core.jobs.job import GeneratedImage, Job, JobProgress, JobResult
from lego_serve.errors import LegoError
from lego_serve.gateway.context import Context
from lego_serve.gateway.errors import error_body, note
from lego_serve.gateway.media.codec import encode, enlarge
from lego_serve.gateway.requests.schemas import EditRequest
from lego_serve.gateway.responses import encode_images, response_metadata
from lego_serve.gateway.run_job import ImageJobRequest, record_outcome, run_job

log = logging.getLogger("lego_serve.gateway")
PATIENCE_S = 5.0  # how long headers wait for the first event, so that an early error has its own status
PING_S = 15.0
HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}

Item = JobProgress | JobResult | LegoError


async def stream(context: Context, request: Request, order: ImageJobRequest) -> StreamingResponse:
    """Run one request as a job and answer with its events.  Raises LegoError for what fails at once."""
    named = contextlib.ExitStack()
    with named:
        job = order.job(named.enter_context(context.job_ids.taken(request)), context.runner.now())
        kept = named.pop_all()
    queue: asyncio.Queue[Item] = asyncio.Queue()
    running = asyncio.ensure_future(_run(context, request, order, job, queue))
    running.add_done_callback(lambda _: kept.close())
    try:
        first = await asyncio.wait_for(queue.get(), PATIENCE_S)
    except TimeoutError:
        first = None
    except BaseException:
        running.cancel()
        raise
    if isinstance(first, LegoError):
        raise first
    events = _events(order, job, queue, first, running)
    return StreamingResponse(events, media_type="text/event-stream", headers=HEADERS)


async def _run(
    context: Context, request: Request, order: ImageJobRequest, job: Job, queue: asyncio.Queue[Item]
) -> None:
    try:
        with record_outcome(context, order):
            queue.put_nowait(await run_job(context, request, order, job, queue.put_nowait))
    except LegoError as error:
        queue.put_nowait(error)
    except Exception:
        log.exception("unexpected error")
        queue.put_nowait(LegoError("Something unexpected went wrong on the server."))


async def _events(
    order: ImageJobRequest, job: Job, queue: asyncio.Queue[Item], first: Item | None, running: asyncio.Future[None]
) -> AsyncIterator[bytes]:
    kind = "image_edit" if isinstance(order.body, EditRequest) else "image_generation"
    shown = 0
    try:
        while True:
            try:
                item = first or await asyncio.wait_for(queue.get(), PING_S)
            except TimeoutError:
                yield b": ping\n\n"
                continue
            first = None
            match item:
                case JobProgress():
                    yield await _progress(kind, order, job, item, shown)
                    shown += item.preview is not None
                case JobResult():
                    for event in await _completed(kind, order, job, item):
                        yield event
                    return
                case LegoError():
                    note(item)
                    yield _event("error", error_body(item))
                    return
    finally:
        running.cancel()  # a client that left; nothing where the job has ended


async def _progress(kind: str, order: ImageJobRequest, job: Job, said: JobProgress, shown: int) -> bytes:
    about = {"image_index": said.index, "step": said.step, "steps": said.steps, "eta_s": round(said.eta_s, 3)}
    if said.preview is None:
        return _event(f"{kind}.progress", about)
    width, height = int(str(job.inputs["width"])), int(str(job.inputs["height"]))
    file = await asyncio.to_thread(_preview, said.preview, width, height, order.body.output_format)
    return _event(
        f"{kind}.partial_image",
        {
            "b64_json": file,
            "partial_image_index": shown,
            "created_at": int(time.time()),
            "size": f"{width}x{height}",
            "quality": order.body.quality or "auto",
            "background": "opaque",
            "output_format": order.body.output_format,
            "lego": about,
        },
    )


def _preview(image: GeneratedImage, width: int, height: int, output_format: str) -> str:
    return encode(enlarge(image, width, height), output_format, None if output_format == "png" else 80)


async def _completed(kind: str, order: ImageJobRequest, job: Job, result: JobResult) -> list[bytes]:
    """One event an image; tokens are not counted here, so the usage OpenAI's SDK knows is zeros."""
    files = await encode_images(order.body, result)
    usage = {
        "input_tokens": 0,
        "output_tokens": 0,
        "total_tokens": 0,
        "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
    }
    common = response_metadata(order.body, job, result) | {"created_at": int(time.time()), "usage": usage}
    return [
        _event(f"{kind}.completed", common | {"b64_json": file, "seed": image.seed})
        for file, image in zip(files, result.images, strict=True)
    ]


def _event(name: str, data: dict[str, Any]) -> bytes:
    content = data if name == "error" else {"type": name} | data
    return f"event: {name}\ndata: {json.dumps(content)}\n\n".encode()
