"""Templates over HTTP: images registered for many edits, made ready for them, and forgotten."""

import asyncio
import hashlib
import io
import logging
import secrets
import time
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from PIL import Image

from lego_serve.core.editing.edit import image_key
from lego_serve.core.editing.templates import TemplateCommand, pin_of
from lego_serve.errors import LegoError, NotFound, RequestError, with_param
from lego_serve.gateway.context import Context
from lego_serve.gateway.errors import Conflict
from lego_serve.gateway.media.codec import decode_upload, to_array
from lego_serve.gateway.requests.edits import own_size, workflow_taking
from lego_serve.gateway.requests.schemas import dimensions
from lego_serve.gateway.requests.template_schemas import (
    TemplateForm,
    TemplateRequest,
    WarmRequest,
    read_template,
    read_warm,
)
from lego_serve.gateway.routes.template_costs import TemplateCosts, backbone_of, edit_inputs
from lego_serve.gateway.routes.template_warmup import TemplateWarmup
from lego_serve.gateway.settings import Caller, TemplateSettings
from lego_serve.gateway.template_store import Template, TemplateFiles

log = logging.getLogger("lego_serve.gateway")


def create_router(context: Context, files: TemplateFiles, settings: TemplateSettings) -> APIRouter:
    """The routes of templates; each caller sees those of their own tenant."""
    router = APIRouter(prefix="/v1/templates", tags=["templates"])
    costs, warming = TemplateCosts(context.runner, settings.budgets, settings.tenant_pins), TemplateWarmup(context)

    @router.post("", openapi_extra={"requestBody": {"content": {"multipart/form-data": {"schema": _form_schema()}}}})
    async def register(request: Request) -> JSONResponse:
        """Register an image; one that is registered is answered as it is."""
        caller = context.authenticate(request)
        form = await read_template(request)
        wanted, png = await _wanted(context, form, caller)
        if form.body.is_warm:
            warming.check_room()
        known = await _known(context, caller, wanted)
        if known is None:
            if wanted.pin:
                await costs.check_pin(caller.tenant, wanted, await asyncio.to_thread(files.pinned))
            await costs.predicted(wanted)  # asked of replicas now, so that nothing is kept where they do not answer
            known = await asyncio.to_thread(files.add, caller.tenant, wanted, png)
        _check_same(form.body, known)
        if form.body.is_warm:
            await warming.start(caller, known, WarmRequest(steps=form.body.steps))
        return JSONResponse(await _card(costs, known), 201 if known is wanted else 200)

    @router.get("")
    async def list_templates(request: Request) -> JSONResponse:
        """The caller's templates, oldest first."""
        caller = context.authenticate(request)
        found = await asyncio.to_thread(files.listed, caller.tenant)
        return JSONResponse({"object": "list", "data": [await _card(costs, template) for template in found]})

    @router.get("/{template_id}")
    async def show_template(request: Request, template_id: str) -> JSONResponse:
        """One template, and the replicas that keep activations of it."""
        caller = context.authenticate(request)
        template = await context.template(caller, template_id)
        said = await _ask(context, template, "bytes", template.image)
        places = [{"id": replica, "bytes": kept} for replica, kept in sorted(said.items()) if kept]
        return JSONResponse(await _card(costs, template) | {"replicas": places})

    @router.delete("/{template_id}")
    async def remove_template(request: Request, template_id: str) -> Response:
        """Forget a template, with all that replicas keep of it."""
        caller = context.authenticate(request)
        template = await context.template(caller, template_id)
        template = await asyncio.to_thread(files.remove, caller.tenant, template.id)
        try:
            await _ask(context, template, "forget", f"{template.image} {template.pin}".strip())
        except LegoError as error:  # it is gone for whoever asks; what a replica still has goes when it needs the room
            log.warning("a template's activations were not let go of everywhere: %s", error.code)
        return Response(status_code=204)

    @router.post(
        "/{template_id}/warm",
        openapi_extra={"requestBody": {"content": {"application/json": {"schema": WarmRequest.model_json_schema()}}}},
    )
    async def warm_template(request: Request, template_id: str) -> JSONResponse:
        """Compute what edits of a template will read."""
        caller = context.authenticate(request)
        ask = await read_warm(request)
        template = await context.template(caller, template_id)
        warming.check_room()
        predicted = await costs.predicted(template, ask)
        task = await warming.start(caller, template, ask)
        said = {"id": template.id, "object": "template.warming", "bytes_predicted": predicted}
        if not ask.wait:
            return JSONResponse(said | {"status": "started"}, 202)
        return JSONResponse(said | {"status": "done", "primed": await asyncio.shield(task)})

    return router


async def _wanted(context: Context, form: TemplateForm, caller: Caller) -> tuple[Template, bytes]:
    """The template of a form, and its image as a file.  Raises RequestError."""
    body, settings = form.body, context.settings
    workflow = workflow_taking(context, context.workflow(body.model), "edit", "model")
    image = await asyncio.to_thread(decode_upload, form.image, settings.max_image_pixels)
    size = dimensions(body.size, settings.size_multiple) or own_size(context, workflow, image)
    ask = WarmRequest(steps=body.steps, caption=body.caption)
    try:
        edit_inputs(workflow, size, ask)  # bounds first, then the work of resizing
    except RequestError as error:
        raise with_param(error, "warm" if error.param == "steps" else error.param) from None
    key, png = await asyncio.to_thread(_prepared, image, size, caller.tenant)
    name = f"tmpl_{hashlib.sha256(f'{key} {workflow.name}'.encode()).hexdigest()[:24]}"
    model = body.model or settings.default_workflow
    pin = pin_of(caller.tenant, secrets.token_hex(8)) if body.pin else ""
    called = body.name or f"template-{name[-8:]}"
    made = int(time.time())
    return Template(name, called, made, *size, model, workflow.name, key, pin, body.steps, body.caption), png


def _prepared(image: Image.Image, size: tuple[int, int], tenant: str) -> tuple[str, bytes]:
    pixels = to_array(image, *size)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return image_key(tenant, pixels.shape, pixels.tobytes()), out.getvalue()


async def _known(context: Context, caller: Caller, wanted: Template) -> Template | None:
    try:
        return await context.template(caller, wanted.id)
    except NotFound:
        return None


def _check_same(body: TemplateRequest, known: Template) -> None:
    """Raise Conflict where an image is registered otherwise than a request has it."""
    pairs = (
        ("name", body.name, known.name),
        ("caption", body.caption, known.caption),
        ("pin", body.pin, bool(known.pin)),
    )
    for field, asked, is_so in pairs:
        if asked is not None and asked != is_so:
            said = f"This image is registered with another `{field}`; remove the template to register it anew."
            raise Conflict(said, param=field, code="template_exists")


async def _ask(context: Context, template: Template, verb: Any, name: str) -> dict[str, int]:
    """What the replicas of a template's backbone answer; nothing where its workflow is served no more."""
    workflow = context.runner.workflows.get(template.workflow)
    if workflow is None:
        return {}
    return dict(await context.runner.templates(TemplateCommand(verb, backbone_of(workflow), name)))


async def _card(costs: TemplateCosts, template: Template) -> dict[str, Any]:
    try:
        predicted = await costs.predicted(template)
    except RequestError:  # its workflow no longer takes what it was registered for
        predicted = None
    return {
        "id": template.id,
        "object": "template",
        "name": template.name,
        "caption": template.caption,
        "created": template.created,
        "width": template.width,
        "height": template.height,
        "model": template.model,
        "pinned": bool(template.pin),
        "bytes_predicted": predicted,
        "fits": predicted is not None and predicted <= costs.budget(template),
    }


def _form_schema() -> dict[str, Any]:
    schema = TemplateRequest.model_json_schema()
    schema["properties"]["image"] = {"type": "string", "format": "binary"}
    return schema | {"required": ["image"]}
