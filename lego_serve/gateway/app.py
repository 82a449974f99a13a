"""The HTTP application: routes, middleware and error answers put together.  Knows no Ray and no torch."""

from fastapi import APIRouter, FastAPI
from fastapi.responses import JSONResponse, Response

from lego_serve.core.jobs.ports import JobRunner
from lego_serve.gateway.context import Context
from lego_serve.gateway.errors import install
from lego_serve.gateway.middleware import BodyLimit, CatchAll, RequestIds
from lego_serve.gateway.peers import Peers
from lego_serve.gateway.quality_checks import QualityChecks
from lego_serve.gateway.routes import admin, images, models, templates
from lego_serve.gateway.settings import GatewaySettings
from lego_serve.gateway.template_store import TemplateFiles
from lego_serve.metrics import Metrics

EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"


def create_app(runner: JobRunner, settings: GatewaySettings, metrics: Metrics, peers: Peers | None = None) -> FastAPI:
    """An application that answers for one job runner, and asks its peers for jobs that are not its own."""
    app = FastAPI(title="lego_serve", version="0.1.0", docs_url=None, redoc_url=None, redirect_slashes=False)
    quality_checks = QualityChecks(runner, metrics, settings.quality_check_fraction, settings.max_pending_jobs // 8)
    kept = settings.templates
    files = None if kept is None else TemplateFiles(kept.folder, kept.per_tenant, kept.tenant_bytes)
    context = Context(runner, settings, metrics, quality_checks, files)
    app.include_router(images.create_router(context))
    app.include_router(models.create_router(context))
    app.include_router(admin.create_router(context, peers))
    app.include_router(admin.create_adapter_router(context))
    if kept is not None and files is not None:
        app.include_router(templates.create_router(context, files, kept))
    app.include_router(_operations(context))
    install(app)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    app.add_middleware(CatchAll)
    app.add_middleware(RequestIds)  # outermost, so that whatever answers is marked
    return app


def _operations(context: Context) -> APIRouter:
    router = APIRouter(tags=["operations"])

    @router.get("/health/live")
    async def live() -> JSONResponse:
        """Whether this process answers."""
        return JSONResponse({"status": "ok"})

    @router.get("/health/ready")
    async def ready() -> JSONResponse:
        """Whether requests can be served."""
        return _ready(context.runner.is_ready)

    @router.get("/health/startup")
    async def startup() -> JSONResponse:
        """Whether the models have been loaded."""
        return _ready(context.runner.is_ready)

    @router.get("/metrics")
    async def metrics() -> Response:
        """Prometheus metrics."""
        return Response(context.metrics.page(), media_type=EXPOSITION)

    return router


def _ready(is_ready: bool) -> JSONResponse:
    return JSONResponse({"status": "ok" if is_ready else "starting"}, 200 if is_ready else 503)
