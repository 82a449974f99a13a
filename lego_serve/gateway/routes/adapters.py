"""Routes for operators: the adapters that are registered at run time."""

from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from lego_serve.core.nodes.requests import ListAdapters, ModelAdapters, RegisterAdapter, RemoveAdapter, ShowAdapter
from lego_serve.gateway.context import Context
from lego_serve.gateway.openapi import errors, json_body
from lego_serve.gateway.requests.json_body import read_body
from lego_serve.gateway.telemetry.access_log import note_admin_target


class AdapterBody(BaseModel):
    """An adapter to be registered: its name, and the path of its file from a configured root on."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    id: Annotated[str, Field(max_length=256)]
    path: Annotated[str, Field(max_length=2048)]
    model: Annotated[str, Field(max_length=256)] | None = None


def create_router(context: Context) -> APIRouter:
    """Build the routes of adapters."""
    router = APIRouter(prefix="/v1/admin/adapters", tags=["admin"])
    handlers = AdapterHandlers(context)
    none, more = errors(404), errors(404, 409)
    router.add_api_route("", handlers.list_adapters, methods=["GET"], responses=none)
    router.add_api_route("/{name}", handlers.show_adapter, methods=["GET"], responses=none)
    body = json_body(AdapterBody)
    router.add_api_route("", handlers.register_adapter, methods=["POST"], openapi_extra=body, responses=more)
    router.add_api_route("/{name}", handlers.remove_adapter, methods=["DELETE"], responses=none)
    return router


class AdapterHandlers:
    """Answers requests about adapters; a method's docstring is its description in the API's schema."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def list_adapters(self, request: Request, model: str | None = None) -> JSONResponse:
        """The adapters there are, and the files in their folders that are passed over, with the reason."""
        self._context.authenticate(request, admin=True)
        answer = await self._context.admin.adapters(model, ListAdapters())
        passed_over = [{"path": file.path, "model": answer.model, "reason": file.reason} for file in answer.passed_over]
        return JSONResponse({"object": "list", "data": _adapter_cards(answer), "passed_over": passed_over})

    async def show_adapter(self, request: Request, name: str, model: str | None = None) -> JSONResponse:
        """One adapter, read and checked."""
        self._context.authenticate(request, admin=True)
        answer = await self._context.admin.adapters(model, ShowAdapter(name))
        [card] = _adapter_cards(answer)
        return JSONResponse(card)

    async def register_adapter(self, request: Request) -> JSONResponse:
        """Give a name to a file under a configured root."""
        self._context.authenticate(request, admin=True)
        body = await read_body(request, AdapterBody)
        note_admin_target(request, body.id)
        answer = await self._context.admin.adapters(body.model, RegisterAdapter(body.id, body.path))
        [card] = _adapter_cards(answer)
        return JSONResponse(card | {"registered": True})

    async def remove_adapter(self, request: Request, name: str, model: str | None = None) -> JSONResponse:
        """Take a name back that was given at run time; the file stays, and so do images under way."""
        self._context.authenticate(request, admin=True)
        await self._context.admin.adapters(model, RemoveAdapter(name))
        return JSONResponse({"id": name, "object": "adapter", "status": "removed"})


def _adapter_cards(answer: ModelAdapters) -> list[dict[str, Any]]:
    return [
        {"id": name, "object": "adapter", "model": answer.model, **facts}
        for name, facts in sorted(answer.adapters.items())
    ]
