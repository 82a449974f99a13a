"""The Images API: generations and edits, each one job."""

import asyncio
import secrets
import time
import uuid
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile

from lego_serve.core.job import Job, JobResult
from lego_serve.core.workflow import Workflow
from lego_serve.core.workflow_bind import bind
from lego_serve.errors import CapacityError, JobCancelled, LegoError, NotFound, RequestError, UnsupportedParameter
from lego_serve.gateway.context import Context
from lego_serve.gateway.errors import WrongMediaType, validation_error
from lego_serve.gateway.pictures import decode_upload, encode, fit_size, to_array
from lego_serve.gateway.schemas import REQUEST_NAMES, EditRequest, ImageRequest
from lego_serve.gateway.settings import Caller

IMAGE_TO_IMAGE = "-img2img"
FORM_LIMITS = {"max_files": 16, "max_fields": 64, "max_part_size": 64 * 1024}


def create_router(context: Context) -> APIRouter:
    """The routes of the Images API."""
    router = APIRouter(prefix="/v1/images", tags=["images"])

    @router.post("/generations", openapi_extra=_body("application/json", ImageRequest))
    async def generate(request: Request) -> JSONResponse:
        """Make images from a prompt."""
        caller = context.authenticate(request)
        _require_type(request, "application/json")
        try:
            body = ImageRequest.model_validate_json(await request.body())
        except ValidationError as error:
            raise validation_error(error) from None
        body.refuse_unsupported()
        workflow = _workflow(context, body.model)
        return await _answer(context, request, caller, workflow, body, _sized(context, body))

    @router.post("/edits", openapi_extra=_body("multipart/form-data", EditRequest))
    async def edit(request: Request) -> JSONResponse:
        """Make images from an image and a prompt."""
        caller = context.authenticate(request)
        _require_type(request, "multipart/form-data")
        form = await request.form(**FORM_LIMITS)  # type: ignore[arg-type]
        try:
            body, upload = _read_form(form)
            body.refuse_unsupported()
            data = await upload.read()
        finally:
            await form.close()
        workflow = _edit_workflow(context, body.model)
        picture = await asyncio.to_thread(decode_upload, data, context.settings.max_image_pixels)
        sized = _sized(context, body)
        if not sized:
            bounds = workflow.inputs["width"]
            low, high = int(bounds.min or 16), int(bounds.max or 4096)
            width, height = fit_size(picture, context.settings.size_multiple, low, high)
            sized = {"width": width, "height": height}
        _bind(workflow, body.inputs() | sized | {"image": b""})  # bounds first, then the work of resizing
        pixels = await asyncio.to_thread(to_array, picture, int(str(sized["width"])), int(str(sized["height"])))
        return await _answer(context, request, caller, workflow, body, sized | {"image": {"pixels": pixels}})

    return router


def _body(media_type: str, model: type[ImageRequest]) -> dict[str, Any]:
    schema = model.model_json_schema()
    if media_type.startswith("multipart"):
        schema["properties"]["image"] = {"type": "string", "format": "binary"}
        schema["required"] = [*schema["required"], "image"]
    return {"requestBody": {"required": True, "content": {media_type: {"schema": schema}}}}


def _require_type(request: Request, expected: str) -> None:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != expected:
        raise WrongMediaType(f"The body must be of type {expected}.")


def _workflow(context: Context, name: str | None) -> Workflow:
    workflow = context.runner.workflows.get(name or context.settings.default_workflow)
    if workflow is None:
        raise NotFound(
            "There is no model of this name; GET /v1/models lists them.", param="model", code="model_not_found"
        )
    return workflow


def _edit_workflow(context: Context, name: str | None) -> Workflow:
    workflow = _workflow(context, name)
    if "image" in workflow.inputs:
        return workflow
    sibling = context.runner.workflows.get(workflow.name + IMAGE_TO_IMAGE)
    if sibling is None or "image" not in sibling.inputs:
        raise UnsupportedParameter("This model does not edit images.", param="image")
    return sibling


def _sized(context: Context, body: ImageRequest) -> dict[str, object]:
    size = body.dimensions(context.settings.size_multiple)
    return {} if size is None else {"width": size[0], "height": size[1]}


def _read_form(form: FormData) -> tuple[EditRequest, UploadFile]:
    """The fields and the one image of an edit.  Raises RequestError."""
    fields: dict[str, str] = {}
    images: list[UploadFile] = []
    for name, value in form.multi_items():
        if name == "mask":
            raise UnsupportedParameter("`mask` is not supported by this server.", param="mask")
        if name in ("image", "image[]"):
            if not isinstance(value, UploadFile):
                raise RequestError("`image` must be a file.", param="image", code="invalid_type")
            images.append(value)
        elif isinstance(value, UploadFile):
            raise UnsupportedParameter("The form has a file this server does not know.")
        elif name in fields:
            raise RequestError("A field is given twice.", code="duplicate_field")
        else:
            fields[name] = value
    if len(images) != 1:
        raise RequestError("Exactly one `image` is needed.", param="image", code="missing" if not images else None)
    try:
        return EditRequest.model_validate(fields), images[0]
    except ValidationError as error:
        raise validation_error(error) from None


async def _answer(
    context: Context,
    request: Request,
    caller: Caller,
    workflow: Workflow,
    body: ImageRequest,
    extra: Mapping[str, object],
) -> JSONResponse:
    """Run one request as a job and answer with its images."""
    started = time.monotonic()
    outcome = "ok"
    try:
        job = _job(context, caller, workflow, body, extra)
        result = await _run(context, request, job)
        context.metrics.finished(workflow, result)
        return await _respond(job, body, result)
    except LegoError as error:
        outcome = error.code
        raise
    except BaseException:
        outcome = "internal_error"
        raise
    finally:
        context.metrics.answered(workflow.name, outcome, time.monotonic() - started)


def _job(context: Context, caller: Caller, workflow: Workflow, body: ImageRequest, extra: Mapping[str, object]) -> Job:
    given = body.inputs() | dict(extra)
    if "seed" in workflow.inputs and "seed" not in given:
        given["seed"] = secrets.randbelow(2**32)
    inputs = _bind(workflow, given)
    now = context.runner.now()
    deadline = None if body.deadline_ms is None else now + body.deadline_ms / 1000
    return Job(f"job_{uuid.uuid4().hex}", workflow.name, inputs, now, deadline, caller.tenant, caller.weight)


def _bind(workflow: Workflow, given: Mapping[str, object]) -> dict[str, object]:
    """Values of the workflow's inputs; complaints name the request's field.  Raises RequestError."""
    try:
        return bind(workflow, given)
    except RequestError as error:
        name = error.param or ""
        shown = REQUEST_NAMES.get(name, name)
        raise type(error)(error.message.replace(f"`{name}`", f"`{shown}`"), param=shown, code=error.code) from None


async def _run(context: Context, request: Request, job: Job) -> JobResult:
    """Run the job unless too many are pending; a client that leaves cancels it."""
    if context.runner.in_flight >= context.settings.max_pending_jobs:
        context.metrics.rejected("over_capacity")
        raise CapacityError("Too many requests are pending; try again shortly.", retry_after_s=2)
    context.metrics.accepted()
    running = asyncio.ensure_future(context.runner.run(job))
    leaving = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((running, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not running.done():
            raise JobCancelled("The client left before the image was ready.")
        return running.result()
    finally:
        context.metrics.left()
        for task in (running, leaving):
            task.cancel()
        await asyncio.gather(running, leaving, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _respond(job: Job, body: ImageRequest, result: JobResult) -> JSONResponse:
    files = await asyncio.gather(
        *(asyncio.to_thread(encode, p, body.output_format, body.output_compression) for p in result.pictures)
    )
    first = result.pictures[0]
    return JSONResponse(
        {
            "created": int(time.time()),
            "data": [{"b64_json": f, "seed": p.seed} for f, p in zip(files, result.pictures, strict=True)],
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
            },
        }
    )
