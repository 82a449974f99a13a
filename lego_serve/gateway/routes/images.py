"""The Images API: generations and edits, each one job."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from lego_serve.gateway.context import Context
from lego_serve.gateway.errors import require_type
from lego_serve.gateway.requests.addons import addon_workflow, control_input
from lego_serve.gateway.requests.edits import edit_order, read_edit
from lego_serve.gateway.requests.json_body import read_body
from lego_serve.gateway.requests.schemas import EditRequest, GenerationRequest, ImageRequest
from lego_serve.gateway.run_job import ImageJobRequest, answer
from lego_serve.gateway.stream import stream


def create_router(context: Context) -> APIRouter:
    """The routes of the Images API."""
    router = APIRouter(prefix="/v1/images", tags=["images"])

    @router.post("/generations", openapi_extra=_body("application/json", GenerationRequest))
    async def generate(request: Request) -> Response:
        """Make images from a prompt."""
        caller = context.authenticate(request)
        body = await read_body(request, GenerationRequest)
        body.refuse_unsupported()
        workflow = addon_workflow(context, context.workflow(body.model), body)
        sized = _sized(context, body)
        order = ImageJobRequest(workflow, body, sized | await control_input(context, workflow, body, sized), caller)
        return await (stream(context, request, order) if body.stream else answer(context, request, order))

    @router.post("/edits", openapi_extra=_body("multipart/form-data", EditRequest))
    async def edit(request: Request) -> Response:
        """Make images from an image and a prompt."""
        caller = context.authenticate(request)
        require_type(request, "multipart/form-data")
        form = await read_edit(request)
        order = await edit_order(context, form, caller)
        return await (stream(context, request, order) if form.body.stream else answer(context, request, order))

    return router


def _body(media_type: str, model: type[ImageRequest]) -> dict[str, Any]:
    schema = model.model_json_schema()
    if media_type.startswith("multipart"):
        schema["properties"] |= {name: {"type": "string", "format": "binary"} for name in ("image", "mask")}
    return {"requestBody": {"required": True, "content": {media_type: {"schema": schema}}}}


def _sized(context: Context, body: ImageRequest) -> dict[str, object]:
    size = body.dimensions(context.settings.size_multiple)
    return {} if size is None else {"width": size[0], "height": size[1]}
