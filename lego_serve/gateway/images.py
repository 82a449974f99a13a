"""The Images API: generations and edits, each one job."""

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from lego_serve.core.names import unknown
from lego_serve.core.workflow import Workflow
from lego_serve.errors import NotFound, RequestError, UnsupportedParameter
from lego_serve.gateway.addons import addon_workflow, control_input
from lego_serve.gateway.bodies import read_body
from lego_serve.gateway.context import Context
from lego_serve.gateway.errors import require_type, shown_name, validation_error
from lego_serve.gateway.pictures import decode_upload, fit_size, to_array
from lego_serve.gateway.running import Order, answer, bind_request
from lego_serve.gateway.schemas import EditRequest, GenerationRequest, ImageRequest
from lego_serve.gateway.streaming import stream

IMAGE_TO_IMAGE = "-img2img"
MAX_FILES, MAX_FIELDS, MAX_TEXT_BYTES = 16, 64, 64 * 1024
FORM_COMPLAINTS = {  # by how the form's parser begins its own
    "Too many files": f"The form has more than {MAX_FILES} files.",
    "Too many fields": f"The form has more than {MAX_FIELDS} fields.",
    "Part exceeded": f"A text field of the form is longer than {MAX_TEXT_BYTES} bytes.",
}


def create_router(context: Context) -> APIRouter:
    """The routes of the Images API."""
    router = APIRouter(prefix="/v1/images", tags=["images"])

    @router.post("/generations", openapi_extra=_body("application/json", GenerationRequest))
    async def generate(request: Request) -> Response:
        """Make images from a prompt."""
        caller = context.authenticate(request)
        body = await read_body(request, GenerationRequest)
        body.refuse_unsupported()
        workflow = addon_workflow(context, _workflow(context, body.model), body)
        sized = _sized(context, body)
        order = Order(workflow, body, sized | await control_input(context, workflow, body, sized), caller)
        return await (stream(context, request, order) if body.stream else answer(context, request, order))

    @router.post("/edits", openapi_extra=_body("multipart/form-data", EditRequest))
    async def edit(request: Request) -> Response:
        """Make images from an image and a prompt."""
        caller = context.authenticate(request)
        require_type(request, "multipart/form-data")
        form = await _form(request)
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
        bind_request(workflow, body.inputs() | sized | {"image": b""})  # bounds first, then the work of resizing
        pixels = await asyncio.to_thread(to_array, picture, int(str(sized["width"])), int(str(sized["height"])))
        order = Order(workflow, body, sized | {"image": {"pixels": pixels}}, caller)
        return await (stream(context, request, order) if body.stream else answer(context, request, order))

    return router


def _body(media_type: str, model: type[ImageRequest]) -> dict[str, Any]:
    schema = model.model_json_schema()
    if media_type.startswith("multipart"):
        schema["properties"]["image"] = {"type": "string", "format": "binary"}
        schema["required"] = [*schema["required"], "image"]
    return {"requestBody": {"required": True, "content": {media_type: {"schema": schema}}}}


def _workflow(context: Context, name: str | None) -> Workflow:
    workflow = context.runner.workflows.get(name or context.settings.default_workflow)
    if workflow is None:
        said = unknown("model", str(name), context.runner.workflows, "GET /v1/models lists them")
        raise NotFound(said, param="model", code="model_not_found")
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


async def _form(request: Request) -> FormData:
    """The form of a request.  Raises RequestError that names the limit it goes over."""
    try:
        return await request.form(max_files=MAX_FILES, max_fields=MAX_FIELDS, max_part_size=MAX_TEXT_BYTES)
    except HTTPException as error:  # whose words are the parser's, and the only sign of what is wrong
        said = str(error.detail)
    for sign, message in FORM_COMPLAINTS.items():
        if said.startswith(sign):
            raise RequestError(message, code="form_too_large")
    raise RequestError("The form cannot be read.", code="bad_request")


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
            raise UnsupportedParameter("The form has a file this server does not know.", param=shown_name(name))
        elif name in fields:
            raise RequestError("A field is given twice.", param=shown_name(name), code="duplicate_field")
        else:
            fields[name] = value
    if len(images) != 1:
        raise RequestError("Exactly one `image` is needed.", param="image", code="missing" if not images else None)
    try:
        return EditRequest.model_validate(fields), images[0]
    except ValidationError as error:
        raise validation_error(error) from None
