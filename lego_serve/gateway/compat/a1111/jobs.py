"""Runs txt2img and img2img: a request of the Images API with previews, which ends early where its caller says so."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from fastapi import Request

from lego_serve.compat.a1111.answers import Outcome, infotext, result
from lego_serve.compat.names import find
from lego_serve.compat.requests import our_request
from lego_serve.compat.samplers import SAMPLERS
from lego_serve.compat.task import ImageTask
from lego_serve.core.jobs.job import GeneratedImage, Job, JobResult
from lego_serve.core.jobs.progress import StreamOptions
from lego_serve.core.tiers.book import EXACT
from lego_serve.errors import JobCancelled
from lego_serve.gateway.admission import Place
from lego_serve.gateway.compat.a1111.runs import Run
from lego_serve.gateway.compat.catalogue import known_models, names, shown_models
from lego_serve.gateway.compat.media import file_of_base64, png_base64
from lego_serve.gateway.compat.preparation import ForeignImages, make_request
from lego_serve.gateway.context import Context
from lego_serve.gateway.media.codec import enlarge
from lego_serve.gateway.requests.job_request import ImageJobRequest
from lego_serve.gateway.responses import tier_usage
from lego_serve.gateway.run_job import run_job

PREVIEWS = 8
LABELS = {ours: label for theirs, (label, ours) in SAMPLERS.items() if theirs == ours}
VERSION = "v1.10.1"  # the A1111 whose routes and shapes these are


@dataclass(frozen=True, slots=True)
class Made:
    """The images of a request that is done or was stopped, and the job behind them; no result where it was stopped."""

    job: Job
    images: tuple[GeneratedImage, ...]
    result: JobResult | None = None


async def make_foreign(context: Context, task: ImageTask) -> ForeignImages:
    """Return our request for what a body asks for.  Raises Refused, RequestError."""
    ours = our_request(task, await names(context, with_adapters=bool(task.loras)), {})
    image = None if task.image is None else file_of_base64(task.image.value, "image")
    mask = None if task.mask is None else file_of_base64(task.mask.image.value, "mask")
    return make_request(context, ours, image, mask)


async def run_images(context: Context, request: Request, bound: ImageJobRequest, *, place: Place, run: Run) -> Made:
    """Run a request to its end, or until it is told to stop: then its images are the last previews.

    Raises LegoError.
    """
    with context.job_ids.reserve(request.state.request_id) as job_id:
        context.log_job(job_id, bound.body.prompt)
        stream = StreamOptions(previews=PREVIEWS, steps=True)
        job = replace(bound.to_job(job_id, context.runner.now()), stream=stream)
        if run.is_stopped:
            return Made(job, ())
        context.log_job(job.id, bound.body.prompt)
        run.job_id, run.images = job.id, _number(job, "n", 1)
        run.steps, run.size = _number(job, "steps", 0), (_number(job, "width", 0), _number(job, "height", 0))
        try:
            made = await run_job(context, request, bound, job, place=place, on_progress=run.tell)
        except JobCancelled:
            if not run.is_stopped or await request.is_disconnected():
                raise
            return Made(job, await _previews(context, run))
        return Made(job, made.images, made)


async def answer_of(context: Context, task: ImageTask, asked: Mapping[str, object], made: Made) -> dict[str, object]:
    """Return the answer to a request, as A1111 writes it; each PNG holds its line of parameters."""
    outcome = _outcome(context, task, asked, made)
    are_sent = asked.get("send_images") is not False
    files: list[str] = []
    if are_sent:
        texts = (infotext(outcome, index) for index in range(len(made.images)))
        pairs = zip(made.images, texts, strict=True)
        files = await asyncio.gather(*(context.images.write(png_base64, image, text) for image, text in pairs))
    return result(files, asked, outcome, are_sent=are_sent)


def _outcome(context: Context, task: ImageTask, asked: Mapping[str, object], made: Made) -> Outcome:
    inputs, first = made.job.inputs, next(iter(made.images), None)
    size = (first.width, first.height) if first else (_number(made.job, "width", 0), _number(made.job, "height", 0))
    wanted = asked.get("sampler_name") or asked.get("sampler_index")
    ours = str(inputs.get("sampler", "euler"))
    model = None if task.checkpoint is None else find(task.checkpoint, known_models(context))
    size_of_batch = asked.get("batch_size")
    return Outcome(
        prompt=str(asked.get("prompt") or ""),
        negative_prompt=task.negative_prompt or "",
        seeds=tuple(image.seed for image in made.images),
        width=size[0],
        height=size[1],
        steps=_number(made.job, "steps", 0),
        guidance=float(str(inputs.get("guidance", 0.0))),
        sampler=wanted if isinstance(wanted, str) else LABELS.get(ours, ours),
        model=model or shown_models(context)[0],
        scheduler=task.scheduler,
        strength=task.strength,
        batch_size=size_of_batch if isinstance(size_of_batch, int) else 1,
        made_at=time.strftime("%Y%m%d%H%M%S"),
        version=VERSION,
        replaced=(*task.replaced, *_tier_words(made)),
    )


def _tier_words(made: Made) -> tuple[tuple[str, str], ...]:
    """Return the tier that ran and its evaluations, which are fewer than the steps; nothing where all of them ran."""
    if made.job.tier.tier == EXACT:
        return ()
    used = {} if made.result is None else tier_usage(made.job, made.result).get("tier", {})
    told = {"Tier": made.job.tier.tier, "Evaluations": used.get("evaluations")}
    return tuple((name, str(value)) for name, value in told.items() if value is not None)


async def _previews(context: Context, run: Run) -> tuple[GeneratedImage, ...]:
    """Return the last previews of a run, of its images' size."""
    latest = [preview for _, preview in sorted(run.previews.items())]
    return tuple(await asyncio.gather(*(context.images.write(enlarge, preview, *run.size) for preview in latest)))


def _number(job: Job, name: str, default: int) -> int:
    value = job.inputs.get(name, default)
    return value if isinstance(value, int) else default
