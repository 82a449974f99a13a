"""The HTTP application: routes, middleware and error answers put together.  Knows no Ray and no torch."""

from fastapi import FastAPI

from lego_serve.core.jobs.ports import ClusterAdmin, JobRunner
from lego_serve.core.scheduling.admission import AdmissionLimits
from lego_serve.gateway.admission import Admission
from lego_serve.gateway.context import Context
from lego_serve.gateway.errors import add_error_handlers
from lego_serve.gateway.middleware import BodyLimit, CatchAll, RequestIds
from lego_serve.gateway.openapi import DescribedApp
from lego_serve.gateway.peers import Peers
from lego_serve.gateway.quality_checks import QualityChecks
from lego_serve.gateway.requests.body_bytes import BODIES, BodyBytes
from lego_serve.gateway.routes import adapters, images, models, operations, templates
from lego_serve.gateway.routes import admin as admin_routes
from lego_serve.gateway.settings import GatewaySettings
from lego_serve.gateway.template_store import TemplateFiles
from lego_serve.metrics import Metrics


def create_app(
    runner: JobRunner,
    admin: ClusterAdmin,
    settings: GatewaySettings,
    metrics: Metrics,
    peers: Peers | None = None,
) -> FastAPI:
    """Build the application over a job runner and its cluster; ``peers`` are asked for jobs that are not its own."""
    app = DescribedApp(title="lego_serve", version="0.1.0", docs_url=None, redoc_url=None, redirect_slashes=False)
    app.needs_key = bool(settings.keys)
    app.state.body_bytes = BodyBytes(BODIES * settings.max_body_bytes)
    context = create_context(runner, admin, settings, metrics)
    app.include_router(images.create_router(context))
    app.include_router(models.create_router(context))
    app.include_router(admin_routes.create_router(context, peers))
    app.include_router(adapters.create_router(context))
    if settings.templates is not None and context.templates is not None:
        app.include_router(templates.create_router(context, context.templates, settings.templates))
    app.include_router(operations.create_router(context))
    add_error_handlers(app)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    app.add_middleware(CatchAll)
    app.add_middleware(RequestIds)  # outermost, so that every answer is marked
    return app


def create_context(runner: JobRunner, admin: ClusterAdmin, settings: GatewaySettings, metrics: Metrics) -> Context:
    """Build the parts that the routes share."""
    admission = Admission(AdmissionLimits(settings.max_pending_jobs), runner, metrics)
    quality_checks = QualityChecks(runner, metrics, settings.quality_check_fraction, admission)
    stored = settings.templates
    files = None if stored is None else TemplateFiles(stored.folder, stored.per_tenant, stored.tenant_bytes)
    return Context(
        runner=runner,
        admin=admin,
        settings=settings,
        metrics=metrics,
        admission=admission,
        quality_checks=quality_checks,
        templates=files,
    )
