"""Routes for operators: the jobs of all gateways, and the backbone replicas."""

from dataclasses import asdict
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from lego_serve.core.jobs.job import JobState
from lego_serve.core.nodes.requests import ReplicaLoad, SeenReplica
from lego_serve.core.scheduling.autoscaling import ReplicaBounds
from lego_serve.core.scheduling.scale_board import NodeScale
from lego_serve.errors import NotFound, RequestError
from lego_serve.gateway.context import Context
from lego_serve.gateway.openapi import errors, json_answer, json_body
from lego_serve.gateway.peers import Peers
from lego_serve.gateway.requests.json_body import read_body
from lego_serve.gateway.telemetry.access_log import note_admin_target

Count = Annotated[int, Field(ge=1, le=64)]


class PinRequest(BaseModel):
    """The fewest and the most replicas that a node is to have."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    min: Count
    max: Count


class ReplicaCard(BaseModel):
    """A replica; with `all=true` also where it is, whether it takes work, and what it has in hand."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    object: Literal["replica"]
    node: str
    model: str = ""
    component: str = ""
    machine: str = ""
    state: Literal["up", "draining"] = "up"
    is_shared: bool = False
    load: ReplicaLoad | None = None


class ReplicaList(BaseModel):
    """The replicas there are."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    object: Literal["list"]
    data: tuple[ReplicaCard, ...]


def create_router(context: Context, peers: Peers | None) -> APIRouter:
    """Build the routes; those of jobs answer for all gateways together."""
    router = APIRouter(prefix="/v1/admin", tags=["admin"])
    jobs, replicas = JobHandlers(context, peers), ReplicaHandlers(context)
    none = errors(404)
    router.add_api_route("/jobs", jobs.list_jobs, methods=["GET"])
    router.add_api_route("/jobs/{job_id}", jobs.show_job, methods=["GET"], responses=none)
    router.add_api_route("/jobs/{job_id}", jobs.cancel_job, methods=["DELETE"], responses=none)
    router.add_api_route("/jobs/{job_id}/pause", jobs.pause_job, methods=["POST"], responses=none)
    router.add_api_route("/jobs/{job_id}/resume", jobs.resume_job, methods=["POST"], responses=none)
    seen = json_answer(200, "The replicas there are.", ReplicaList)
    router.add_api_route("/replicas", replicas.list_replicas, methods=["GET"], responses=seen)
    router.add_api_route("/replicas/{replica}/drain", replicas.drain_replica, methods=["POST"], responses=none)
    router.add_api_route("/nodes", replicas.list_nodes, methods=["GET"])
    pins, body = "/nodes/{node}/replicas", json_body(PinRequest)
    router.add_api_route(
        pins, replicas.pin_node, methods=["PUT"], status_code=202, openapi_extra=body, responses=errors(404, 503)
    )
    router.add_api_route(pins, replicas.unpin_node, methods=["DELETE"], status_code=202, responses=errors(404, 503))
    return router


class JobHandlers:
    """Answers requests about jobs, here or in a peer; a method's docstring is its description in the API's schema."""

    def __init__(self, context: Context, peers: Peers | None) -> None:
        self._context, self._runner, self._peers = context, context.runner, peers

    async def list_jobs(self, request: Request) -> JSONResponse:
        """The jobs in flight, oldest first."""
        self._context.authenticate(request, admin=True)
        cards = [_job_card(state) for state in self._runner.states()]
        for answer in await self._ask_peers(request, "GET", "/v1/admin/jobs"):
            cards += answer["data"]
        return JSONResponse({"object": "list", "data": sorted(cards, key=lambda card: -card["age_s"])})

    async def show_job(self, request: Request, job_id: str) -> JSONResponse:
        """One job in flight or lately ended: how it stands, and what happened to it, one line an event."""
        self._context.authenticate(request, admin=True)
        story = self._runner.story(job_id)
        if not story:
            for answer in await self._ask_peers(request, "GET", _job_path(job_id)):
                return JSONResponse(answer)
            raise NotFound("There is no job of this id, nor was there one lately.", code="job_not_found")
        state = next((state for state in self._runner.states() if state.id == job_id), None)
        if state is None:
            card: dict[str, Any] = {"id": job_id, "object": "job", "status": "ended"}
        else:
            card = _job_card(state) | {"status": "paused" if state.is_paused else "running"}
        return JSONResponse(card | {"story": list(story)})

    async def cancel_job(self, request: Request, job_id: str) -> JSONResponse:
        """Cancel a job in flight."""
        self._context.authenticate(request, admin=True)
        is_cancelled = self._runner.cancel(job_id)
        if not is_cancelled and not await self._ask_peers(request, "DELETE", _job_path(job_id)):
            raise _not_in_flight()
        return JSONResponse({"id": job_id, "object": "job", "status": "cancelled"})

    async def pause_job(self, request: Request, job_id: str) -> JSONResponse:
        """Let a job's images wait between two steps; its deadline goes on."""
        self._context.authenticate(request, admin=True)
        is_paused = await self._runner.pause(job_id, True)
        if not is_paused and not await self._ask_peers(request, "POST", f"{_job_path(job_id)}/pause"):
            raise _not_in_flight()
        return JSONResponse({"id": job_id, "object": "job", "status": "paused"})

    async def resume_job(self, request: Request, job_id: str) -> JSONResponse:
        """Let a paused job go on from where it stands."""
        self._context.authenticate(request, admin=True)
        is_resumed = await self._runner.pause(job_id, False)
        if not is_resumed and not await self._ask_peers(request, "POST", f"{_job_path(job_id)}/resume"):
            raise _not_in_flight()
        return JSONResponse({"id": job_id, "object": "job", "status": "resumed"})

    async def _ask_peers(self, request: Request, method: str, path: str) -> list[Any]:
        return [] if self._peers is None else await self._peers.ask(request, method, path)


class ReplicaHandlers:
    """Answers requests about backbone replicas; a method's docstring is its description in the API's schema."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def list_replicas(self, request: Request) -> JSONResponse:
        """The backbone replicas there are; with `all=true` those of every node that answers soon, with their load."""
        self._context.authenticate(request, admin=True)
        if request.query_params.get("all") == "true":
            loads = sorted(await self._context.admin.loads(), key=lambda each: (each.model, each.component, each.id))
            return JSONResponse({"object": "list", "data": [_replica_card(each) for each in loads]})
        replicas = await self._context.admin.replicas()
        data = [{"id": replica, "object": "replica", "node": node} for replica, node in sorted(replicas.items())]
        return JSONResponse({"object": "list", "data": data})

    async def drain_replica(self, request: Request, replica: str) -> JSONResponse:
        """Move a replica's lanes elsewhere, from fresh checkpoints, and have it replaced."""
        self._context.authenticate(request, admin=True)
        moved = await self._context.admin.drain(replica)
        return JSONResponse({"id": replica, "object": "replica", "status": "drained", "calls_moved": moved})

    async def list_nodes(self, request: Request) -> JSONResponse:
        """How many replicas each node is to have, within which bounds, and why that changed last."""
        self._context.authenticate(request, admin=True)
        board = await self._context.admin.scales()
        whys = {change.node: change.why for change in board.changes}
        cards = [_node_card(node, scale, whys.get(node)) for node, scale in sorted(board.nodes.items())]
        return JSONResponse({"object": "list", "data": cards})

    async def pin_node(self, request: Request, node: str) -> JSONResponse:
        """Keep the number of a node's replicas within bounds, until the server is started anew."""
        self._context.authenticate(request, admin=True)
        body = await read_body(request, PinRequest)
        note_admin_target(request, node)
        if body.max < body.min:
            raise RequestError(f"`max` ({body.max}) is less than `min` ({body.min}).", param="max", code="out_of_range")
        await self._context.admin.pin(node, ReplicaBounds(body.min, body.max))
        return JSONResponse({"object": "pin", "node": node, "min": body.min, "max": body.max, "until": "restart"}, 202)

    async def unpin_node(self, request: Request, node: str) -> JSONResponse:
        """Have the configuration say again how many replicas a node may have."""
        self._context.authenticate(request, admin=True)
        note_admin_target(request, node)
        await self._context.admin.pin(node, None)
        return JSONResponse({"object": "pin", "node": node, "min": None, "max": None, "until": None}, 202)


def replica_facts(replica: SeenReplica) -> dict[str, Any]:
    """Return what every answer says of a replica: which it is, where it is, and whether it takes work."""
    return {
        "id": replica.id,
        "object": "replica",
        "node": f"{replica.model}.{replica.component}",
        "model": replica.model,
        "component": replica.component,
        "machine": replica.load.machine,
        "state": "draining" if replica.load.is_draining else "up",
        "is_shared": replica.is_shared,
    }


def _replica_card(replica: SeenReplica) -> dict[str, Any]:
    return {**replica_facts(replica), "load": asdict(replica.load)}


def _node_card(node: str, scale: NodeScale, why: str | None) -> dict[str, Any]:
    bounds = {"min": scale.bounds.min, "max": scale.bounds.max}
    return {"id": node, "object": "node", "target": scale.target, **bounds, "pinned": scale.is_pinned, "why": why}


def _job_path(job_id: str) -> str:
    return f"/v1/admin/jobs/{quote(job_id, safe='')}"


def _not_in_flight() -> NotFound:
    return NotFound("There is no job in flight of this id.", code="job_not_found")


def _job_card(state: JobState) -> dict[str, Any]:
    return {
        "id": state.id,
        "object": "job",
        "workflow": state.workflow,
        "tenant": state.tenant,
        "age_s": round(state.age_s, 3),
        "nodes": dict(state.nodes),
        "paused": state.is_paused,
    }
