"""Routes for whoever runs the server: health and metrics."""

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from lego_serve.gateway.context import Context
from lego_serve.gateway.openapi import answer
from lego_serve.gateway.routes.direct_route import DirectRoute

METRICS_MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
NOT_READY = answer(503, "Not now.")


def create_router(context: Context) -> APIRouter:
    """Build the routes of health and metrics."""
    router = APIRouter(tags=["operations"], route_class=DirectRoute)

    @router.get("/health/live")
    async def live(request: Request) -> JSONResponse:
        """Whether this process answers."""
        return JSONResponse({"status": "ok"})

    @router.get("/health/ready", responses=NOT_READY)
    async def ready(request: Request) -> JSONResponse:
        """Whether requests can be served."""
        return _readiness(context)

    @router.get("/health/startup", responses=NOT_READY)
    async def startup(request: Request) -> JSONResponse:
        """Whether the models have been loaded."""
        return _readiness(context)

    @router.get("/metrics", response_class=PlainTextResponse)
    async def metrics(request: Request) -> Response:
        """Prometheus metrics."""
        return Response(context.metrics.page(), media_type=METRICS_MEDIA_TYPE)

    return router


def _readiness(context: Context) -> JSONResponse:
    if context.draining.has_begun:
        return JSONResponse({"status": "stopping"}, 503)
    is_ready = context.runner.is_ready
    is_degraded = context.jobs is not None and context.jobs.worker.is_store_away
    said: dict[str, object] = {"status": "ok" if is_ready else "starting"}
    if is_degraded:
        said["degraded"] = ["job_store"]
    return JSONResponse(said, 200 if is_ready else 503)
