"""Answers a streamed request that has an `Idempotency-Key`: the Images API's events, told of a durable job."""

import base64
import io
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

from PIL import Image

from lego_serve.core.durable_jobs.preview import JobPreview
from lego_serve.core.durable_jobs.record import JobRecord
from lego_serve.gateway.context import Context
from lego_serve.gateway.errors import ServerStopping, error_body
from lego_serve.gateway.jobs.job_object import result_metadata
from lego_serve.gateway.jobs.outcomes import stored_error
from lego_serve.gateway.jobs.service import DurableJobs, images_of
from lego_serve.gateway.jobs.submission import ImageBody
from lego_serve.gateway.requests.schemas import EditRequest, quality_of
from lego_serve.gateway.stream import PING, sse_event


async def image_events(context: Context, jobs: DurableJobs, record: JobRecord, body: ImageBody) -> AsyncIterator[bytes]:
    """Yield previews and steps, then the images or the error of a job.

    The job goes on where the client leaves: it has a key to come back with.
    """
    kind = "image_edit" if isinstance(body, EditRequest) else "image_generation"
    previews = Counter[int]()  # by image
    async for news in jobs.watch(record):
        match news:
            case None if context.draining.has_begun:
                yield sse_event("error", error_body(ServerStopping()))
                return
            case None:
                yield PING
            case JobPreview():
                yield sse_event(f"{kind}.partial_image", _partial(news, previews[news.lane]))
                previews[news.lane] += 1
            case JobRecord():
                record = news
                if body.stream_progress and not record.status.has_ended and record.progress.steps:
                    yield sse_event(f"{kind}.progress", _progress(record))
    error = stored_error(record)
    if error is not None:
        yield sse_event("error", error_body(error))
        return
    metadata = result_metadata(record) | {"created_at": int(time.time())}
    for index, card in enumerate(images_of(record)):
        file = base64.b64encode(await jobs.image(record, index)).decode()
        facts = metadata["lego"] | {"image_index": index, "seed": card["seed"]}
        yield sse_event(f"{kind}.completed", metadata | {"b64_json": file, "seed": card["seed"], "lego": facts})


def _partial(preview: JobPreview, number: int) -> dict[str, Any]:
    """Return a preview with every field that OpenAI's event has; its format is the one that it was stored in."""
    with Image.open(io.BytesIO(preview.jpeg)) as image:
        width, height = image.size
    return {
        "b64_json": base64.b64encode(preview.jpeg).decode(),
        "partial_image_index": number,
        "created_at": int(time.time()),
        "size": f"{width}x{height}",
        "quality": quality_of(preview.steps),
        "background": "opaque",
        "output_format": "jpeg",
        "lego": {"image_index": preview.lane, "step": preview.step, "steps": preview.steps},
    }


def _progress(record: JobRecord) -> dict[str, Any]:
    told = record.progress
    return {"image_index": 0, "step": told.step, "steps": told.steps, "eta_s": told.eta_s}
