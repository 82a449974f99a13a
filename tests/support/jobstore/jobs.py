"""Records of durable jobs for tests."""

from collections.abc import Awaitable
from dataclasses import replace
from typing import Any

from lego_serve.core.durable_jobs.ids import RANDOM_BYTES, job_id
from lego_serve.core.durable_jobs.record import JobRecord, JobRequest, Webhook
from lego_serve.core.durable_jobs.transitions import Retention, submit
from lego_serve.errors import CapacityError

HOOK = Webhook("https://hooks.example/jobs")
REQUEST = JobRequest("/v1/images/generations", "lego-tiny", "tiny", {"prompt": "a red square", "steps": 4}, seed=7)


def request(**changes: Any) -> JobRequest:
    """A request for one image, with these fields instead."""
    return replace(REQUEST, **changes)


def new_job(number: int, now: float = 1000.0, retention: Retention | None = None, **changes: Any) -> JobRecord:
    """A job just submitted, whose id ends with its number."""
    chance = number.to_bytes(RANDOM_BYTES)
    return submit(job_id(now, chance), request(**changes), now, retention)


async def answer_to(asked: Awaitable[object]) -> str | None:
    """Why a submission is refused; None where it is not."""
    try:
        await asked
    except CapacityError as error:
        return error.message
    return None
