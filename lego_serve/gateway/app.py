"""The HTTP application: routes, middleware and error answers put together.  Knows no Ray and no torch."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

from fastapi import FastAPI
from opentelemetry.trace import TracerProvider

from lego_serve import __version__
from lego_serve.core.jobs.ports import ClusterAdmin, JobRunner
from lego_serve.core.scheduling.admission import AdmissionLimits
from lego_serve.core.web_pages import PagePolicy
from lego_serve.gateway.admission import Admission
from lego_serve.gateway.compat.callers import caller_by
from lego_serve.gateway.context import Context
from lego_serve.gateway.errors import add_error_handlers
from lego_serve.gateway.jobs.once import OnceOnly
from lego_serve.gateway.jobs.parts import JobStorage
from lego_serve.gateway.jobs.service import DurableJobs, with_durable_jobs
from lego_serve.gateway.limits.tenant_limits import TenantLimiter
from lego_serve.gateway.links.kept_images import KeptImages
from lego_serve.gateway.media.workers import ImageWorkers
from lego_serve.gateway.middleware import BodyLimit, CatchAll, HeadAsGet, RequestIds, WhileStopping
from lego_serve.gateway.openapi import DescribedApp
from lego_serve.gateway.peers import Peers
from lego_serve.gateway.quality_checks import QualityChecks
from lego_serve.gateway.requests.body_bytes import BODIES, BodyBytes
from lego_serve.gateway.routes import (
    a1111,
    adapters,
    admin_templates,
    comfyui,
    images,
    jobs,
    kept_images,
    models,
    operations,
    templates,
)
from lego_serve.gateway.routes import admin as admin_routes
from lego_serve.gateway.routes.direct_route import add_routes
from lego_serve.gateway.routes.template_warmup import TemplateWarmup
from lego_serve.gateway.settings import GatewaySettings, Keys
from lego_serve.gateway.telemetry.access_log import AccessLog
from lego_serve.gateway.telemetry.tracing import Tracing, request_spans
from lego_serve.gateway.template_store import TemplateFiles
from lego_serve.gateway.transport.draining import Draining
from lego_serve.gateway.transport.ports import SplitPorts, WhileStarting
from lego_serve.gateway.transport.web_pages import Cors, PageGuard
from lego_serve.gateway.ui.recorder import Recorder
from lego_serve.gateway.ui.routes import add_ui
from lego_serve.metrics import Metrics

COUNT_PAUSE_S = 2.0  # between two looks at how jobs stand
READY_PAUSE_S = 0.1  # between two looks whether durable jobs can begin


def create_app(
    runner: JobRunner,
    admin: ClusterAdmin,
    settings: GatewaySettings,
    metrics: Metrics,
    peers: Peers | None = None,
    draining: Draining | None = None,
    storage: JobStorage | None = None,
    tracer_provider: TracerProvider | None = None,
) -> FastAPI:
    """Build the application over a job runner and its cluster; ``peers`` are asked for jobs that are not its own.

    ``draining`` is told by whoever stops the server.  Without ``storage`` there are no durable jobs, and without a
    ``tracer_provider`` nothing is traced.
    """
    draining = draining or Draining()
    context = create_context(runner, admin, settings, metrics, draining, Tracing(tracer_provider))
    context.on_close.extend((context.quality_checks.close, context.limits.close))
    if storage is not None:
        context = with_durable_jobs(context, storage)
    context.on_close.append(context.tracing.close)
    if peers is not None:
        peers.token = lambda: context.keys.peer_token
        context.on_close.append(peers.close)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        starting = None
        if context.jobs is not None and runner.is_ready:
            context.jobs.start()
        elif context.jobs is not None:
            starting = asyncio.ensure_future(_start(context.jobs, runner))
        if context.kept_images is not None:
            context.kept_images.start()
        runner.journal.on_decision = metrics.count_decision
        runner.journal.on_retry, runner.journal.on_redone = metrics.count_retry, metrics.count_redone
        counting = asyncio.ensure_future(_count_jobs(runner, metrics, draining, context.jobs, recorder.note_waiting))
        yield
        counting.cancel()
        if starting is not None:
            starting.cancel()
        await context.close()

    app = DescribedApp(
        title="lego_serve",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        telemetry=request_spans(tracer_provider),
    )
    app.needs_key = bool(settings.keys)
    app.state.body_bytes = BodyBytes(BODIES * settings.max_body_bytes)
    app.state.jobs = context.jobs
    recorder = _add_routes(app, context, peers)
    add_error_handlers(app)
    _add_middleware(app, settings, draining, metrics, lambda: runner.is_ready, storage, context.keys)
    return app


async def _count_jobs(
    runner: JobRunner,
    metrics: Metrics,
    draining: Draining,
    jobs: DurableJobs | None,
    note_waiting: Callable[[int], None],
) -> None:
    """Keep the metrics of jobs in flight, and of whether the store of durable jobs can be reached."""
    while True:
        states = runner.states()
        paused = sum(state.is_paused for state in states)
        running = sum(not state.is_paused and "running" in state.nodes.values() for state in states)
        is_ready = runner.is_ready and not draining.has_begun
        metrics.set_jobs(len(states) - paused - running, running, paused, is_ready)
        metrics.set_store_away(jobs is not None and jobs.worker.is_store_away)
        note_waiting(len(states) - paused - running)
        await asyncio.sleep(COUNT_PAUSE_S)


async def _start(jobs: DurableJobs, runner: JobRunner) -> None:
    """Begin to run jobs when the nodes answer."""
    while not runner.is_ready:
        await asyncio.sleep(READY_PAUSE_S)
    jobs.start()


def _add_routes(app: FastAPI, context: Context, peers: Peers | None) -> Recorder:
    add_routes(app, images.create_router(context))  # what is asked most is found first
    add_routes(app, operations.create_router(context))
    add_routes(app, jobs.create_router(context))
    if context.kept_images is not None:
        add_routes(app, kept_images.create_router(context.kept_images))
    add_routes(app, models.create_router(context))
    add_routes(app, admin_routes.create_router(context, peers))
    add_routes(app, adapters.create_router(context))
    stored = context.settings.templates
    if stored is not None and context.templates is not None:
        warmup = TemplateWarmup(context)
        add_routes(app, templates.create_router(context, context.templates, stored, warmup, peers))
        add_routes(app, admin_templates.create_router(context, context.templates, stored, warmup))
    if "a1111" in context.settings.compat:
        add_routes(app, a1111.create_router(context, peers))
    if "comfyui" in context.settings.compat:
        add_routes(app, comfyui.create_router(context))
        app.state.sockets = comfyui.SOCKETS
    return add_ui(app, context, peers)


def _add_middleware(
    app: FastAPI,
    settings: GatewaySettings,
    draining: Draining,
    metrics: Metrics,
    is_ready: Callable[[], bool],
    storage: JobStorage | None,
    keys: Keys,
) -> None:
    """Add what every request passes; the last one added is the outermost."""
    policy = PagePolicy(settings.allowed_hosts, settings.cors_origins, is_open=not settings.keys)
    keep_s = 0.0 if storage is None else storage.settings.retention.ended_s
    kept_in = None if storage is None else (storage.store, storage.files)
    app.add_middleware(OnceOnly, kept_in=kept_in, keep_s=keep_s, caller_of=partial(caller_by, keys), draining=draining)
    app.add_middleware(HeadAsGet)
    app.add_middleware(WhileStarting, is_ready=is_ready)
    if settings.operations_port is not None:
        app.add_middleware(SplitPorts, operations_port=settings.operations_port)
    app.add_middleware(PageGuard, policy=policy)
    app.add_middleware(WhileStopping, draining=draining)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    app.add_middleware(CatchAll, draining=draining)
    if settings.cors_origins:
        app.add_middleware(Cors, origins=settings.cors_origins)  # outside of all errors, so that pages can read them
    app.add_middleware(AccessLog, has_requests=settings.access_log)
    app.add_middleware(RequestIds, on_refusal=metrics.count_refused)


def create_context(
    runner: JobRunner,
    admin: ClusterAdmin,
    settings: GatewaySettings,
    metrics: Metrics,
    draining: Draining | None = None,
    tracing: Tracing | None = None,
) -> Context:
    """Build the parts that the routes share."""
    limits = AdmissionLimits(
        settings.max_pending_jobs, max_images=settings.max_pending_images, is_shared=settings.has_tenants
    )
    admission = Admission(limits, runner, metrics)
    workers = ImageWorkers()
    quality_checks = QualityChecks(
        runner, metrics, settings.quality_check_fraction, admission, workers, settings.deadlines
    )
    stored = settings.templates
    files = None if stored is None else TemplateFiles(stored.folder, stored.per_tenant, stored.tenant_bytes)
    kept = None if settings.kept_images is None else KeptImages(settings.kept_images)
    return Context(
        runner=runner,
        admin=admin,
        settings=settings,
        metrics=metrics,
        admission=admission,
        quality_checks=quality_checks,
        limits=TenantLimiter(settings.limits, runner.now),
        keys=Keys(settings.keys, settings.keys_file),
        templates=files,
        kept_images=kept,
        on_close=[] if kept is None else [kept.close],
        images=workers,
        draining=draining or Draining(),
        tracing=tracing or Tracing(),
    )
