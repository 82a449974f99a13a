"""ComfyUI's native API: prompts of the nodes that are translated, as durable jobs."""

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from fastapi import APIRouter, Request, Response

from lego_serve.gateway.compat.comfyui.errors import render
from lego_serve.gateway.compat.comfyui.files import FileHandlers
from lego_serve.gateway.compat.comfyui.listener import ListenerHandler
from lego_serve.gateway.compat.comfyui.offers import OfferHandlers
from lego_serve.gateway.compat.comfyui.prompts import Prompts
from lego_serve.gateway.compat.comfyui.queue import PromptHandlers
from lego_serve.gateway.compat.comfyui.uploads import Uploads
from lego_serve.gateway.compat.route_class import route_class
from lego_serve.gateway.context import Context

Handler: TypeAlias = Callable[[Request], Awaitable[Response]]
PREFIXES = ("", "/api")  # every route is under both, as in ComfyUI
SOCKETS = frozenset(f"{prefix}/ws" for prefix in PREFIXES)


def create_router(context: Context) -> APIRouter:
    """Build the routes; without a store of jobs those that need one answer 503."""
    router = APIRouter(route_class=route_class(render), include_in_schema=False)
    prompts = None if context.jobs is None else Prompts(context.jobs)
    uploads = None if context.jobs is None else Uploads(context.jobs.blobs)
    listener = ListenerHandler(context, prompts)
    for prefix in PREFIXES:
        for method, path, answer in _routes(context, prompts, uploads):
            router.add_api_route(prefix + path, answer, methods=[method], response_model=None)
        router.add_api_websocket_route(f"{prefix}/ws", listener.listen)
    return router


def _routes(context: Context, prompts: Prompts | None, uploads: Uploads | None) -> list[tuple[str, str, Handler]]:
    queue, files = PromptHandlers(context, prompts, uploads), FileHandlers(context, prompts, uploads)
    offers = OfferHandlers(context, uploads)
    return [
        ("POST", "/prompt", queue.submit),
        ("GET", "/prompt", queue.count),
        ("GET", "/queue", queue.queue),
        ("POST", "/queue", queue.clear_queue),
        ("GET", "/history", queue.history),
        ("GET", "/history/{prompt_id}", queue.history),
        ("POST", "/history", queue.clear_history),
        ("POST", "/interrupt", queue.interrupt),
        ("POST", "/jobs/{prompt_id}/cancel", queue.cancel),
        ("GET", "/view", files.view),
        ("POST", "/upload/image", files.upload_image),
        ("POST", "/upload/mask", files.upload_mask),
        ("GET", "/object_info", offers.nodes),
        ("GET", "/object_info/{name}", offers.nodes),
        ("GET", "/models", offers.folders),
        ("GET", "/models/{folder}", offers.models),
        ("GET", "/embeddings", offers.none),
        ("GET", "/extensions", offers.none),
        ("GET", "/features", offers.features),
        ("GET", "/system_stats", offers.stats),
        ("POST", "/free", offers.done),
    ]
