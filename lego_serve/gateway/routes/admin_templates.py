"""Routes for operators: the templates of all tenants, what replicas keep of them, and making them ready."""

import asyncio
import logging
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from lego_serve.core.nodes.requests import ForgetTemplate, ListTemplateBytes
from lego_serve.core.scheduling.admission import Applicant
from lego_serve.core.whole_numbers import whole_number
from lego_serve.core.workflow.graph import Workflow
from lego_serve.errors import LegoError
from lego_serve.gateway.context import Context
from lego_serve.gateway.openapi import answer, errors
from lego_serve.gateway.requests.template_schemas import WarmRequest
from lego_serve.gateway.routes.template_costs import TemplateCosts, backbone_of
from lego_serve.gateway.routes.template_warmup import TemplateWarmup
from lego_serve.gateway.settings import Caller, TemplateSettings
from lego_serve.gateway.template_store import Template, TemplateFiles

MOST = 200
log = logging.getLogger("lego_serve.gateway")


def create_router(
    context: Context, files: TemplateFiles, settings: TemplateSettings, warmup: TemplateWarmup
) -> APIRouter:
    """Build the routes of templates for operators."""
    router = APIRouter(prefix="/v1/admin/templates", tags=["admin"])
    handlers = AdminTemplateHandlers(
        context, files, TemplateCosts(context.runner, context.admin, settings, context.settings.tiers), warmup
    )
    none, one = errors(404), "/{tenant}/{template_id}"
    image = answer(200, "The image, as it was registered.", "image/png")
    router.add_api_route("", handlers.list_templates, methods=["GET"])
    router.add_api_route(f"{one}/image", handlers.show_image, methods=["GET"], responses=none | image)
    router.add_api_route(f"{one}/warm", handlers.warm, methods=["POST"], status_code=202, responses=errors(404, 429))
    router.add_api_route(f"{one}/activations", handlers.evict, methods=["DELETE"], status_code=204, responses=none)
    return router


class AdminTemplateHandlers:
    """Answers requests about any tenant's templates; a method's docstring is its description in the API's schema."""

    def __init__(self, context: Context, files: TemplateFiles, costs: TemplateCosts, warmup: TemplateWarmup) -> None:
        self._context, self._files, self._costs, self._warmup = context, files, costs, warmup

    async def list_templates(self, request: Request, tenant: str = "", limit: int = 100, cursor: str = "") -> Response:
        """The templates of all tenants or of one, oldest first, and the bytes that each replica keeps of them."""
        self._context.authenticate(request, admin=True)
        start, limit = whole_number(cursor) or 0, max(1, min(limit, MOST))
        every = await asyncio.to_thread(self._files.of_all)
        found = [(owner, each) for owner, templates in every.items() if tenant in ("", owner) for each in templates]
        kept = await self._kept_bytes()
        page = found[start : start + limit]
        following = start + limit
        return JSONResponse(
            {
                "object": "list",
                "data": [await self._card(owner, template, kept) for owner, template in page],
                "total": len(found),
                "next": str(following) if following < len(found) else None,
            }
        )

    async def show_image(self, request: Request, tenant: str, template_id: str) -> Response:
        """A template's image, as a PNG file."""
        self._context.authenticate(request, admin=True)
        template = await self._context.template(Caller(tenant), template_id)
        png = await asyncio.to_thread(self._files.png, tenant, template)
        return Response(png, media_type="image/png", headers={"cache-control": "private, no-store"})

    async def warm(self, request: Request, tenant: str, template_id: str) -> JSONResponse:
        """Compute what edits of a template will read, as its tenant's work."""
        self._context.authenticate(request, admin=True)
        owner = Caller(tenant, weight=self._context.settings.weight_of(tenant))
        template = await self._context.template(owner, template_id)
        wanted = WarmRequest(steps=template.steps)
        with ExitStack() as scope:
            scope.enter_context(self._context.admission.reserve(Applicant(tenant, owner.weight)))
            predicted = await self._costs.predicted(template, wanted)
            job = await self._warmup.prepare(owner, template, wanted)
            self._warmup.start(owner, job, template, scope.pop_all())
        self._decide("warm", template, tenant, "an operator asked; replicas compute what its edits will read")
        return JSONResponse({"id": template.id, "object": "template.warming", "bytes_predicted": predicted}, 202)

    async def evict(self, request: Request, tenant: str, template_id: str) -> Response:
        """Have replicas let go of what they keep of a template; its registration stays, a pin lets go for once."""
        self._context.authenticate(request, admin=True)
        template = await self._context.template(Caller(tenant), template_id)
        workflow = self._context.runner.workflows.get(template.workflow)
        freed = 0
        if workflow is not None:
            request_of_all = ForgetTemplate(template.image, template.pin or "")
            freed = sum((await self._context.admin.templates(backbone_of(workflow), request_of_all)).values())
        self._decide("evict", template, tenant, f"an operator asked; replicas let go of {freed / 1e6:.1f} MB")
        return Response(status_code=204)

    def _decide(self, kind: str, template: Template, tenant: str, why: str) -> None:
        runner = self._context.runner
        runner.journal.decide(kind, f"template {template.name} of {tenant}", why, runner.now(), by="operator")

    async def _kept_bytes(self) -> dict[str, Mapping[str, Mapping[str, int]]]:
        """Return the bytes of each image on each replica, by model; nothing of a model that does not answer."""
        workflows = self._context.runner.workflows.values()
        models = sorted({backbone_of(each) for each in workflows if _is_edited(each)})

        async def ask(model: str) -> Mapping[str, Mapping[str, int]]:
            try:
                return await self._context.admin.templates(model, ListTemplateBytes())
            except LegoError as error:
                log.info("replicas of %s did not say what they keep of templates: %s", model, error.code)
                return {}

        answers = await asyncio.gather(*(ask(model) for model in models))
        return dict(zip(models, answers, strict=True))

    async def _card(
        self, tenant: str, template: Template, kept: Mapping[str, Mapping[str, Mapping[str, int]]]
    ) -> dict[str, Any]:
        workflow = self._context.runner.workflows.get(template.workflow)
        replicas = {} if workflow is None else kept.get(backbone_of(workflow), {})
        try:
            predicted = await self._costs.predicted(template)
        except LegoError:  # its workflow no longer takes what it was registered for, or no replica answers
            predicted = None
        return self._costs.card(template, predicted) | {
            "tenant": tenant,
            "replicas": [
                {"id": replica, "bytes": bytes_kept}
                for replica, images in sorted(replicas.items())
                if (bytes_kept := images.get(template.image))
            ],
        }


def _is_edited(workflow: Workflow) -> bool:
    return any(given.type == "edit" for given in workflow.inputs.values())
