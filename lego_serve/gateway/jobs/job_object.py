"""A durable job as the API shows it: OpenAI's words for its state, and the links to follow.

Times are whole seconds of the wall clock, as everywhere in OpenAI's API.
"""

from collections.abc import Callable
from typing import Any

from lego_serve.core.durable_jobs.record import JobRecord
from lego_serve.gateway.jobs.service import images_of
from lego_serve.gateway.queue.times import Standing

JOBS = "/v1/jobs"
MEDIA_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
NOT_SHOWN = ("created", "images")  # of a stored result: they become `created` and `data`
SignPath = Callable[[str, float], str]


def job_object(record: JobRecord, standing: Standing, base_url: str, sign: SignPath) -> dict[str, Any]:
    """Return a job as an answer shows it; ``sign`` makes the link of an image open until the job is forgotten."""
    request, progress = record.request, record.progress
    path = f"{JOBS}/{record.id}"
    return {
        "id": record.id,
        "object": "job",
        "status": record.status.value,
        "endpoint": request.endpoint,
        "model": request.model,
        "created_at": int(record.created_at),
        "started_at": _whole(record.started_at),
        "completed_at": _whole(record.completed_at),
        "deadline_at": _whole(request.deadline_at),
        "expires_at": _whole(record.expires_at),
        "priority": request.priority,
        "position": standing.position,
        "eta_s": standing.eta_s,
        "progress": progress.percent,
        "step": progress.step,
        "steps": progress.steps,
        "images_done": len(images_of(record)) or progress.images_done,
        "attempt": record.attempt,
        "error": _error(record),
        "result": result_with_links(record, base_url, sign),
        "metadata": dict(request.metadata),
        "webhook": None if request.webhook is None else {"url": request.webhook.url, "events": request.webhook.events},
        "urls": {
            "self": f"{base_url}{path}",
            "events": f"{base_url}{path}/events",
            "result": f"{base_url}{path}/result",
            "cancel": f"{base_url}{path}/cancel",
        },
    }


def result_with_links(record: JobRecord, base_url: str, sign: SignPath) -> dict[str, Any] | None:
    """Return the answer of the Images API with a link for each image; None for a job without a result."""
    if record.result is None:
        return None
    expires_at = record.expires_at or 0.0
    data = [
        {"url": base_url + sign(image_path(record.id, index), expires_at), "seed": image["seed"]}
        for index, image in enumerate(images_of(record))
    ]
    return {"created": record.result["created"], "data": data} | result_metadata(record)


def result_metadata(record: JobRecord) -> dict[str, Any]:
    """Return the fields of a stored result besides its images."""
    return {name: value for name, value in (record.result or {}).items() if name not in NOT_SHOWN}


def image_path(job_id: str, index: int) -> str:
    """Return the path of a job's image."""
    return f"{JOBS}/{job_id}/images/{index}"


def _error(record: JobRecord) -> dict[str, str | None] | None:
    if record.error is None:
        return None
    error = record.error
    return {"code": error.code, "message": error.message, "type": error.type, "param": error.param}


def _whole(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds)
