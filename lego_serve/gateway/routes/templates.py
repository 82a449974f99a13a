"""Routes of templates: images registered for many edits, made ready for them, and forgotten."""

import asyncio
import hashlib
import io
import logging
import secrets
import time
from contextlib import ExitStack
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from PIL import Image

from lego_serve.core.editing.edit import image_key
from lego_serve.core.editing.templates import pin_of
from lego_serve.core.nodes.requests import CountTemplateBytes, ForgetTemplate, TemplateCommand
from lego_serve.core.scheduling.admission import Applicant
from lego_serve.core.workflow.graph import Workflow
from lego_serve.errors import LegoError, NotFound, RequestError, with_param
from lego_serve.gateway.context import Context
from lego_serve.gateway.errors import Conflict
from lego_serve.gateway.media.codec import decode_upload, to_array
from lego_serve.gateway.openapi import JOB_ERRORS, answer, errors, form_body, json_body
from lego_serve.gateway.peers import Peers, is_from_peer
from lego_serve.gateway.requests.edits import own_size
from lego_serve.gateway.requests.schemas import dimensions
from lego_serve.gateway.requests.template_schemas import (
    TemplateForm,
    TemplateRequest,
    WarmRequest,
    read_template,
    read_warm,
)
from lego_serve.gateway.requests.workflows import image_workflow
from lego_serve.gateway.routes.template_costs import TemplateCosts, backbone_of, edit_inputs
from lego_serve.gateway.routes.template_warmup import TemplateWarmup
from lego_serve.gateway.run_job import while_connected
from lego_serve.gateway.settings import Caller, TemplateSettings
from lego_serve.gateway.template_store import Template, TemplateFiles

log = logging.getLogger("lego_serve.gateway")
IMAGE = answer(200, "The image, as it was registered.", "image/png")


def create_router(
    context: Context,
    files: TemplateFiles,
    settings: TemplateSettings,
    warmup: TemplateWarmup,
    peers: Peers | None = None,
) -> APIRouter:
    """Build the routes of templates; each caller sees those of their own tenant."""
    router = APIRouter(prefix="/v1/templates", tags=["templates"])
    costs = TemplateCosts(context.runner, context.admin, settings, context.settings.tiers)
    handlers = TemplateHandlers(context, files, costs, warmup, peers)
    none = errors(404)
    registering = answer(200, "It was registered before.") | errors(404, 409)
    warming = answer(200, "It is warm.") | errors(*JOB_ERRORS)
    form, body = form_body(TemplateRequest, ("image",), ("image",)), json_body(WarmRequest, required=False)
    router.add_api_route(
        "", handlers.register, methods=["POST"], status_code=201, openapi_extra=form, responses=registering
    )
    router.add_api_route("", handlers.list_templates, methods=["GET"])
    router.add_api_route("/{template_id}", handlers.show_template, methods=["GET"], responses=none)
    router.add_api_route("/{template_id}/image", handlers.show_image, methods=["GET"], responses=none | IMAGE)
    router.add_api_route(
        "/{template_id}", handlers.remove_template, methods=["DELETE"], status_code=204, responses=none
    )
    router.add_api_route(
        "/{template_id}/warm",
        handlers.warm_template,
        methods=["POST"],
        status_code=202,
        openapi_extra=body,
        responses=warming,
    )
    return router


class TemplateHandlers:
    """Answers requests about templates; a method's docstring is its description in the API's schema."""

    def __init__(
        self,
        context: Context,
        files: TemplateFiles,
        costs: TemplateCosts,
        warmup: TemplateWarmup,
        peers: Peers | None = None,
    ) -> None:
        self._context, self._files, self._costs, self._peers = context, files, costs, peers
        self._warmup = warmup

    async def register(self, request: Request) -> JSONResponse:
        """Register an image; one that is registered is answered as it is."""
        caller = self._context.authenticate(request)
        with ExitStack() as scope:
            async with read_template(request) as form:
                body = form.body
                workflow = image_workflow(self._context, self._context.workflow(body.model), "edit", "model")
                # Decoding takes a place, and without room to warm it nothing is registered.
                place = scope.enter_context(self._context.admission.reserve(_applicant(caller)))
                wanted, png = await _decode_template(self._context, form, caller, workflow)
            del form  # its image
            await self._check_caption(workflow, caller, wanted.caption)
            if not body.is_warm:
                place.release(is_done=False)
            template = await self._find_or_add(caller, wanted, png)
            _check_same(body, template)
            if body.is_warm:
                job = await self._warmup.prepare(caller, template, WarmRequest(steps=body.steps, tier=body.tier))
                self._warmup.start(caller, job, template, scope.pop_all())
        return JSONResponse(await self._card(template), 201 if template is wanted else 200)

    async def _check_caption(self, workflow: Workflow, caller: Caller, caption: str | None) -> None:
        """Raise RequestError for a caption that a model of the workflow could not encode."""
        models = {node.model for node in workflow.nodes.values() if node.kind == "text_encode"}
        for model in sorted(models) if caption else ():
            try:
                await self._context.admin.check_prompt(model, caption or "", caller.tenant, caller.weight)
            except RequestError as error:
                raise with_param(error, "caption") from None

    async def list_templates(self, request: Request) -> JSONResponse:
        """The caller's templates, oldest first."""
        caller = self._context.authenticate(request)
        templates = await asyncio.to_thread(self._files.listed, caller.tenant)
        return JSONResponse({"object": "list", "data": [await self._card(template) for template in templates]})

    async def show_template(self, request: Request, template_id: str) -> JSONResponse:
        """One template, and the replicas that keep activations of it."""
        caller = self._context.authenticate(request)
        template = await self._context.template(caller, template_id)
        stored_bytes = await self._ask_replicas(template, CountTemplateBytes(template.image))
        replicas = [{"id": replica, "bytes": stored} for replica, stored in sorted(stored_bytes.items()) if stored]
        return JSONResponse(await self._card(template) | {"replicas": replicas})

    async def show_image(self, request: Request, template_id: str) -> Response:
        """A template's image, as a PNG file."""
        caller = self._context.authenticate(request)
        template = await self._context.template(caller, template_id)
        async with self._context.images.turn(caller.tenant, caller.weight) as thread:  # it is decoded, to be checked
            png = await thread.read(self._files.png, caller.tenant, template)
        return Response(png, media_type="image/png", headers={"cache-control": "private, no-store"})

    async def remove_template(self, request: Request, template_id: str) -> Response:
        """Forget a template, with all that replicas keep of it."""
        caller = self._context.authenticate(request)
        cancelled = self._warmup.cancel(caller.tenant, template_id)
        if is_from_peer(request):  # which removes the template itself
            return JSONResponse({"id": template_id, "object": "template.warming", "cancelled": cancelled})
        template = await self._context.template(caller, template_id)
        template = await asyncio.to_thread(self._files.remove, caller.tenant, template.id)
        if self._peers is not None:
            await self._peers.ask(request, "DELETE", f"/v1/templates/{template.id}")
        try:
            await self._ask_replicas(template, ForgetTemplate(template.image, template.pin or ""))
        except LegoError as error:  # it is gone for its owner; a replica drops its entries when it needs the room
            log.warning("a template's activations were not let go of everywhere: %s", error.code)
        return Response(status_code=204)

    async def warm_template(self, request: Request, template_id: str) -> JSONResponse:
        """Compute what edits of a template will read."""
        caller = self._context.authenticate(request)
        warm = await read_warm(request)
        template = await self._context.template(caller, template_id)
        with ExitStack() as scope:
            scope.enter_context(self._context.admission.reserve(_applicant(caller)))
            predicted = await self._costs.predicted(template, warm)
            job = await self._warmup.prepare(caller, template, warm)
            task = self._warmup.start(caller, job, template, scope.pop_all())
        answer = {"id": template.id, "object": "template.warming", "bytes_predicted": predicted}
        if not warm.wait:
            return JSONResponse(answer | {"status": "started"}, 202)
        return JSONResponse(answer | {"status": "done", "primed": await while_connected(self._context, request, task)})

    async def _find_or_add(self, caller: Caller, wanted: Template, png: bytes) -> Template:
        """Return the registered template of an image, else register it.  Raises Conflict or NodeError."""
        try:
            return await self._context.template(caller, wanted.id)
        except NotFound:
            pass
        if wanted.pin:
            await self._costs.check_pin(caller.tenant, wanted, await asyncio.to_thread(self._files.pinned))
        await self._costs.predicted(wanted)  # replicas are asked now, so that nothing is kept where they do not answer
        return await asyncio.to_thread(self._files.add, caller.tenant, wanted, png)

    async def _ask_replicas(self, template: Template, request: TemplateCommand[int]) -> dict[str, int]:
        """Return the answers of the replicas of a template's backbone; none where its workflow is not served."""
        workflow = self._context.runner.workflows.get(template.workflow)
        if workflow is None:
            return {}
        return dict(await self._context.admin.templates(backbone_of(workflow), request))

    async def _card(self, template: Template) -> dict[str, Any]:
        try:
            predicted = await self._costs.predicted(template)
        except RequestError:  # its workflow no longer takes what it was registered for
            predicted = None
        return self._costs.card(template, predicted)


def _applicant(caller: Caller) -> Applicant:
    """Return what warming a template asks to be admitted as: one image of its caller's."""
    return Applicant(caller.tenant, caller.weight)


async def _decode_template(
    context: Context, form: TemplateForm, caller: Caller, workflow: Workflow
) -> tuple[Template, bytes]:
    """Return the template of a form, and its image as a PNG file.  Raises RequestError."""
    body, settings = form.body, context.settings
    async with context.images.turn(caller.tenant, caller.weight) as thread:
        image = await thread.read(decode_upload, form.image, settings.max_image_pixels)
        size = dimensions(body.size, settings.size_multiple) or own_size(workflow, image, settings.size_multiple)
        try:  # bounds first, then the work of resizing
            edit_inputs(workflow, size, body.edits)
        except RequestError as error:
            raise with_param(error, "warm" if error.param == "steps" else error.param) from None
        key, png = await thread.read(_resize_to_png, image, size, caller.tenant)
    template_id = f"tmpl_{hashlib.sha256(f'{key} {workflow.name}'.encode()).hexdigest()[:24]}"
    template = Template(
        id=template_id,
        name=body.name or f"template-{template_id[-8:]}",
        created=int(time.time()),
        width=size[0],
        height=size[1],
        model=body.model or settings.default_workflow,
        workflow=workflow.name,
        image=key,
        pin=pin_of(caller.tenant, secrets.token_hex(8)) if body.pin else "",
        steps=body.steps,
        caption=body.caption,
        tier=body.tier,
    )
    return template, png


def _resize_to_png(image: Image.Image, size: tuple[int, int], tenant: str) -> tuple[str, bytes]:
    """Return the key of an image at a size (width, height), and its PNG file."""
    pixels = to_array(image, *size)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return image_key(tenant, pixels.shape, pixels.tobytes()), file.getvalue()


def _check_same(body: TemplateRequest, template: Template) -> None:
    """Raise Conflict where an image is registered otherwise than a request wants it."""
    fields = (
        ("name", body.name, template.name),
        ("caption", body.caption, template.caption),
        ("pin", body.pin, bool(template.pin)),
    )
    for field, requested, registered in fields:
        if requested is not None and requested != registered:
            message = f"This image is registered with another `{field}`; remove the template to register it anew."
            raise Conflict(message, param=field, code="template_exists")
