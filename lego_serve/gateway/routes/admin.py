"""Routes for operators: the jobs in flight, the backbone replicas, and adapters."""

from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from lego_serve.core.addons import AdapterCommand
from lego_serve.core.jobs.job import JobState
from lego_serve.errors import NotFound
from lego_serve.gateway.context import Context
from lego_serve.gateway.peers import Peers
from lego_serve.gateway.requests.json_body import read_body


def create_router(context: Context, peers: Peers | None) -> APIRouter:
    """The routes; those of jobs answer for all gateways together."""
    router = APIRouter(prefix="/v1/admin", tags=["admin"])

    @router.get("/jobs")
    async def list_jobs(request: Request) -> JSONResponse:
        """The jobs in flight, oldest first."""
        context.authenticate(request, admin=True)
        cards = [_card(state) for state in context.runner.states()]
        for answer in await peers.ask(request, "GET", "/v1/admin/jobs") if peers else ():
            cards += answer["data"]
        return JSONResponse({"object": "list", "data": sorted(cards, key=lambda card: -card["age_s"])})

    @router.delete("/jobs/{job_id}")
    async def cancel_job(request: Request, job_id: str) -> JSONResponse:
        """Cancel a job in flight."""
        context.authenticate(request, admin=True)
        if not context.runner.cancel(job_id) and not (
            peers and await peers.ask(request, "DELETE", f"/v1/admin/jobs/{quote(job_id, safe='')}")
        ):
            raise _no_job()
        return JSONResponse({"id": job_id, "object": "job", "status": "cancelled"})

    @router.post("/jobs/{job_id}/pause")
    async def pause_job(request: Request, job_id: str) -> JSONResponse:
        """Let a job's images wait between two steps; its deadline goes on."""
        return await _set_paused(request, job_id, True)

    @router.post("/jobs/{job_id}/resume")
    async def resume_job(request: Request, job_id: str) -> JSONResponse:
        """Let a paused job go on from where it stands."""
        return await _set_paused(request, job_id, False)

    async def _set_paused(request: Request, job_id: str, paused: bool) -> JSONResponse:
        context.authenticate(request, admin=True)
        path = f"/v1/admin/jobs/{quote(job_id, safe='')}/{'pause' if paused else 'resume'}"
        if not await context.runner.pause(job_id, paused) and not (peers and await peers.ask(request, "POST", path)):
            raise _no_job()
        return JSONResponse({"id": job_id, "object": "job", "status": "paused" if paused else "resumed"})

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


class AdapterBody(BaseModel):
    """An adapter to be registered: its name, and the path of its file from a configured root on."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    id: Annotated[str, Field(max_length=256)]
    path: Annotated[str, Field(max_length=1024)]
    model: Annotated[str, Field(max_length=256)] | None = None


def create_adapter_router(context: Context) -> APIRouter:
    """The routes of adapters that are registered at run time."""
    router = APIRouter(prefix="/v1/admin/adapters", tags=["admin"])

    @router.get("")
    async def list_adapters(request: Request, model: str | None = None) -> JSONResponse:
        """The adapters there are."""
        context.authenticate(request, admin=True)
        found = await context.runner.adapters(AdapterCommand("list", model))
        return JSONResponse({"object": "list", "data": _adapter_cards(found)})

    @router.get("/{name}")
    async def show_adapter(request: Request, name: str, model: str | None = None) -> JSONResponse:
        """One adapter, read and checked."""
        context.authenticate(request, admin=True)
        [card] = _adapter_cards(await context.runner.adapters(AdapterCommand("show", model, name)))
        return JSONResponse(card)

    @router.post("", openapi_extra={"requestBody": {"content": {"application/json": {"schema": BODY}}}})
    async def register_adapter(request: Request) -> JSONResponse:
        """Give a name to a file under a configured root."""
        context.authenticate(request, admin=True)
        body = await read_body(request, AdapterBody)
        found = await context.runner.adapters(AdapterCommand("register", body.model, body.id, body.path))
        return JSONResponse({"id": body.id, "object": "adapter", **found, "registered": True})

    @router.delete("/{name}")
    async def remove_adapter(request: Request, name: str, model: str | None = None) -> JSONResponse:
        """Take a name back that was given at run time; the file stays, and so do images under way."""
        context.authenticate(request, admin=True)
        await context.runner.adapters(AdapterCommand("remove", model, name))
        return JSONResponse({"id": name, "object": "adapter", "status": "removed"})

    return router


BODY = AdapterBody.model_json_schema()


def _adapter_cards(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    cards = sorted(found["adapters"].items())
    return [{"id": name, "object": "adapter", "model": found["model"]} | about for name, about in cards]


def _no_job() -> NotFound:
    return NotFound("There is no job in flight of this id.", code="job_not_found")


def _card(state: JobState) -> dict[str, object]:
    return {
        "id": state.id,
        "object": "job",
        "workflow": state.workflow,
        "tenant": state.tenant,
        "age_s": round(state.age_s, 3),
        "nodes": dict(state.nodes),
        "paused": state.is_paused,
    }
