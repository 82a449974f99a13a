"""What an answer says: its images as files, and the facts about how they were made."""

import asyncio
from dataclasses import asdict
from typing import Any

from lego_serve.core.jobs.job import Job, JobResult
from lego_serve.gateway.media.codec import encode
from lego_serve.gateway.requests.schemas import ImageRequest


async def encode_images(body: ImageRequest, result: JobResult) -> list[str]:
    """The images as base64 of files."""
    return await asyncio.gather(
        *(asyncio.to_thread(encode, p, body.output_format, body.output_compression) for p in result.images)
    )


def response_metadata(body: ImageRequest, job: Job, result: JobResult) -> dict[str, Any]:
    """What an answer says besides its images."""
    first = result.images[0]
    return {
        "background": "opaque",
        "output_format": body.output_format,
        "quality": body.quality or "auto",
        "size": f"{first.width}x{first.height}",
        "lego": {
            "job_id": job.id,
            "seed": first.seed,
            "queue_s": round(result.queue_s, 6),
            "nodes": {name: round(seconds, 6) for name, seconds in result.node_s.items()},
            "cache_hits": result.cache_hits,
            "steps_redone": sum(stats.steps_redone for stats in result.stats.values()),
        }
        | addon_usage(result),
    }


def addon_usage(result: JobResult) -> dict[str, Any]:
    """What was added to the model, where anything was: each adapter with its load, each ControlNet with its passes; and
    what an edit read of its template.
    """
    adapters = [
        {
            "name": used.name,
            "scale": used.scale,
            "cache": "hit" if used.hit else "miss",
            "load_s": round(used.load_s, 6),
            "bytes": used.bytes,
            "steps_without_adapter": used.steps_without_adapter,
            "steps_active": used.steps_active,
        }
        for stats in result.stats.values()
        for used in stats.adapters
    ]
    nets = [
        {
            "name": used.name,
            "placement": used.placement,
            "cache": "hit" if used.hit else "miss",
            "load_s": round(used.load_s, 6),
            "bytes": used.bytes,
            "steps_active": used.steps_active,
            "ran": [[round(began, 6), round(ended, 6)] for began, ended in used.ran],
        }
        for stats in result.stats.values()
        for used in stats.controlnets
    ]
    reuse = [asdict(stats.reuse) for stats in result.stats.values() if stats.reuse is not None]
    said = {"adapters": adapters, "controlnets": nets, "reuse": reuse[0] if reuse else None}
    return {name: value for name, value in said.items() if value}
