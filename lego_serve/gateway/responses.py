"""The body of an answer: its images as files, and how they were made."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from typing import Any, TypeAlias, TypeVar

from lego_serve.core.addons import AdapterStats, ControlNetStats
from lego_serve.core.jobs.job import GeneratedImage, Job, JobResult
from lego_serve.core.tiers.book import EXACT
from lego_serve.core.token_usage import token_usage
from lego_serve.gateway.media.codec import encode, encode_file, is_quick
from lego_serve.gateway.media.workers import ImageWorkers
from lego_serve.gateway.requests.schemas import EditRequest, ImageRequest, quality_of

NOT_EMBEDDED = {"stream", "partial_images", "stream_progress", "embed_request", "user", "safety_identifier"}
SETTLED = {"tier", "tier_floor"}  # what ran is embedded in place of what was asked for
MAX_EMBEDDED_CONTROLS = 65_536  # characters of base64

Encoded = TypeVar("Encoded")
Keep: TypeAlias = Callable[[Sequence[bytes], str], Awaitable[list[str]]]  # files of a format to links


async def images_response(
    workers: ImageWorkers, body: ImageRequest, job: Job, result: JobResult, keep: Keep | None = None
) -> dict[str, Any]:
    """Return the answer of the Images API to a request that does not stream; ``keep`` makes links of its images."""
    if keep is None:
        name, values = "b64_json", await encode_images(workers, body, job, result)
    else:
        name, values = "url", await keep(await encode_files(workers, body, job, result), body.output_format)
    data = [{name: value, "seed": image.seed} for value, image in zip(values, result.images, strict=True)]
    return {"created": int(time.time()), "data": data} | response_metadata(body, job, result)


async def encode_images(workers: ImageWorkers, body: ImageRequest, job: Job, result: JobResult) -> list[str]:
    """Return each image as base64 of a file in the requested format."""
    return await _encode_all(encode, workers, body, job, result)


async def encode_files(workers: ImageWorkers, body: ImageRequest, job: Job, result: JobResult) -> list[bytes]:
    """Return each image as a file in the requested format."""
    return await _encode_all(encode_file, workers, body, job, result)


async def _encode_all(
    encode_one: Callable[[GeneratedImage, str, int | None, str | None], Encoded],
    workers: ImageWorkers,
    body: ImageRequest,
    job: Job,
    result: JobResult,
) -> list[Encoded]:
    encoded: list[Encoded] = []
    for image in result.images:
        how = image, body.output_format, body.output_compression, embedded_request(body, job, image.seed)
        if is_quick(image, body.output_format):
            encoded.append(encode_one(*how))
            await asyncio.sleep(0)  # others may go on between two
        else:
            encoded.append(await workers.write(encode_one, *how))
    return encoded


def embedded_request(body: ImageRequest, job: Job, seed: int) -> str | None:
    """Return the JSON that a PNG carries of its request, with the image's own seed; None where none is wanted.

    It names the tier that ran, so that it makes the same image again.  What says only how the answer comes is left out,
    and so are control images where they are large.
    """
    if not body.embed_request:
        return None
    left_out = NOT_EMBEDDED | SETTLED
    fields = body.model_dump(mode="json", exclude=left_out, exclude_none=True, exclude_defaults=True)
    if body.tier is not None or job.tier.tier != EXACT:
        fields["tier"] = job.tier.tier
    if sum(len(use["image"]) for use in fields.get("controlnet", ())) > MAX_EMBEDDED_CONTROLS:
        del fields["controlnet"]
    path = "/v1/images/edits" if isinstance(body, EditRequest) else "/v1/images/generations"
    return json.dumps({"path": path, "body": fields | {"seed": seed, "n": 1}})


def response_metadata(body: ImageRequest, job: Job, result: JobResult) -> dict[str, Any]:
    """Return the fields of an answer besides its images."""
    first = result.images[0]
    return {
        "background": "opaque",
        "output_format": body.output_format,
        "quality": quality_made(job),
        "size": f"{first.width}x{first.height}",
        "usage": token_usage(job, result),
        **safety_identifier(body),
        "lego": {
            "job_id": job.id,
            "seed": first.seed,
            "queue_s": round(result.queue_s, 6),
            "nodes": {name: round(seconds, 6) for name, seconds in result.node_s.items()},
            "cache_hits": result.cache_hits,
            "steps_redone": sum(stats.steps_redone for stats in result.stats.values()),
        }
        | tier_usage(job, result)
        | addon_usage(result),
    }


def tier_usage(job: Job, result: JobResult) -> dict[str, Any]:
    """Return the tier that ran, what it evaluated and saved, and what it was lowered from; empty without denoising."""
    uses = [stats.tier for stats in result.stats.values() if stats.tier is not None]
    if not uses:
        return {}
    evaluations, steps = sum(use.evaluations for use in uses), sum(use.steps for use in uses)
    lowered_from = job.tier.lowered_from
    usage = {
        "name": uses[-1].tier,
        "evaluations": evaluations,
        "steps": steps,
        "saved_ratio": round(sum(use.saved_ratio * use.steps for use in uses) / steps, 4),
    }
    return {"tier": usage | ({} if lowered_from is None else {"lowered_from": lowered_from})}


def safety_identifier(body: ImageRequest) -> dict[str, str]:
    """Return the field that says whom a request was made for, as OpenAI's answers do; empty where it does not say."""
    effective = body.safety_identifier or body.user
    return {"safety_identifier": effective} if effective else {}


def quality_made(job: Job) -> str:
    """Return the quality that was made, in the words of OpenAI's answers; ``auto`` where a workflow has no steps."""
    steps = job.inputs.get("steps")
    return quality_of(steps) if isinstance(steps, int) else "auto"


def addon_usage(result: JobResult) -> dict[str, Any]:
    """Return what a job used besides its nodes; no key for what it did not.

    How long nodes waited for their models to be loaded, steps on two replicas, adapters, ControlNets, and what its edit
    read of a template.
    """
    all_stats = result.stats.values()
    reuse = [asdict(stats.reuse) for stats in all_stats if stats.reuse is not None]
    loads = {name: round(stats.load_s, 6) for name, stats in result.stats.items() if stats.load_s}
    usage = {
        "loads": loads,
        "steps_split": sum(stats.steps_split for stats in all_stats),
        "adapters": [_adapter_usage(adapter) for stats in all_stats for adapter in stats.adapters],
        "controlnets": [_controlnet_usage(net) for stats in all_stats for net in stats.controlnets],
        "reuse": reuse[0] if reuse else None,
    }
    return {name: value for name, value in usage.items() if value}


def _adapter_usage(adapter: AdapterStats) -> dict[str, Any]:
    passed_over = {"passed_over": list(adapter.passed_over)} if adapter.passed_over else {}
    return {
        "name": adapter.name,
        "scale": adapter.scale,
        "cache": "hit" if adapter.hit else "miss",
        "load_s": round(adapter.load_s, 6),
        "bytes": adapter.bytes,
        "steps_without_adapter": adapter.steps_without_adapter,
        "steps_active": adapter.steps_active,
        **passed_over,
    }


def _controlnet_usage(net: ControlNetStats) -> dict[str, Any]:
    return {
        "name": net.name,
        "placement": net.placement,
        "cache": "hit" if net.hit else "miss",
        "load_s": round(net.load_s, 6),
        "bytes": net.bytes,
        "steps_active": net.steps_active,
        "ran": [[round(start, 6), round(end, 6)] for start, end in net.ran],
    }
