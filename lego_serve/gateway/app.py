"""The HTTP application: routes, middleware and error answers put together.  Knows no Ray and no torch."""

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, Response

from lego_serve.core.ports import JobRunner
from lego_serve.core.workflow import Workflow
from lego_serve.errors import NotFound
from lego_serve.gateway import images
from lego_serve.gateway.context import BodyLimit, Context, RequestIds
from lego_serve.gateway.errors import install
from lego_serve.gateway.settings import GatewaySettings
from lego_serve.metrics import Metrics

EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"


def create_app(runner: JobRunner, settings: GatewaySettings, metrics: Metrics) -> FastAPI:
    """An application that answers for one job runner."""
    app = FastAPI(title="lego_serve", version="0.1.0", docs_url=None, redoc_url=None)
    context = Context(runner, settings, metrics)
    app.include_router(images.create_router(context))
    app.include_router(_models(context))
    app.include_router(_admin(context))
    app.include_router(_operations(context))
    install(app)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    app.add_middleware(RequestIds)
    return app


def _models(context: Context) -> APIRouter:
    router = APIRouter(prefix="/v1/models", tags=["models"])

    @router.get("")
    async def list_models(request: Request) -> JSONResponse:
        """The workflows a request's ``model`` may name."""
        context.authenticate(request)
        cards = [_card(w) for _, w in sorted(context.runner.workflows.items())]
        return JSONResponse({"object": "list", "data": cards})

    @router.get("/{name}")
    async def show_model(request: Request, name: str) -> JSONResponse:
        """One workflow and the inputs it takes."""
        context.authenticate(request)
        workflow = context.runner.workflows.get(name)
        if workflow is None:
            raise NotFound("There is no model of this name.", param="model", code="model_not_found")
        return JSONResponse(_card(workflow))

    return router


def _card(workflow: Workflow) -> dict[str, object]:
    form = workflow.canonical()
    return {
        "id": workflow.name,
        "object": "model",
        "created": 0,
        "owned_by": "lego_serve",
        "lego": {"version": workflow.version, "hash": workflow.content_hash, "inputs": form["inputs"]},
    }


def _admin(context: Context) -> APIRouter:
    router = APIRouter(prefix="/v1/admin", tags=["admin"])

    @router.delete("/jobs/{job_id}")
    async def cancel_job(request: Request, job_id: str) -> JSONResponse:
        """Cancel a job in flight."""
        context.authenticate(request, admin=True)
        if not context.runner.cancel(job_id):
            raise NotFound("There is no job in flight of this id.", code="job_not_found")
        return JSONResponse({"id": job_id, "object": "job", "status": "cancelled"})

    @router.get("/replicas")
    async def list_replicas(request: Request) -> JSONResponse:
        """The backbone replicas there are."""
        context.authenticate(request, admin=True)
        found = await context.runner.replicas()
        data = [{"id": replica, "object": "replica", "node": node} for replica, node in sorted(found.items())]
        return JSONResponse({"object": "list", "data": data})

    @router.post("/replicas/{replica}/drain")
    async def drain_replica(request: Request, replica: str) -> JSONResponse:
        """Move a replica's lanes elsewhere, from fresh checkpoints, and have it replaced."""
        context.authenticate(request, admin=True)
        moved = await context.runner.drain(replica)
        return JSONResponse({"id": replica, "object": "replica", "status": "drained", "calls_moved": moved})

    return router


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
