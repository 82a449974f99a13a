"""Routes of the dashboard: lists without bodies, one thing whole, and the stream of what changes."""

import asyncio
import math
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from lego_serve.core.suggest import did_you_mean
from lego_serve.core.whole_numbers import whole_number
from lego_serve.errors import NotFound, RequestError
from lego_serve.gateway.context import Context
from lego_serve.gateway.errors import Forbidden
from lego_serve.gateway.openapi import errors
from lego_serve.gateway.peers import HEADER, MACHINE, Peers, is_from_peer
from lego_serve.gateway.settings import Caller
from lego_serve.gateway.stream import HEADERS
from lego_serve.gateway.ui.caches import caches_of
from lego_serve.gateway.ui.events import VIEWS, RowFilter, Stream, Wanted
from lego_serve.gateway.ui.overview import NAMES, overview_of, series_of
from lego_serve.gateway.ui.part import part_of
from lego_serve.gateway.ui.pump import Bell, Pump
from lego_serve.gateway.ui.recorder import Recorder
from lego_serve.gateway.ui.rows import detail_of, graph_of
from lego_serve.gateway.ui.watch import Watch, since_of

WINDOWS = (300, 3600)
MOST_ROWS = 200
MOST_WAIT_S = 5.0  # for another gateway that waits for something to happen here
SORTS = ("created", "-created", "age_s", "-age_s", "waited_s", "-waited_s")


def create_router(context: Context, peers: Peers | None, recorder: Recorder) -> APIRouter:
    """Build the routes; all of them answer for all gateways together."""
    router = APIRouter(prefix="/v1/admin", tags=["dashboard"])
    watch, bell = Watch(context, peers, recorder), Bell()
    context.runner.journal.on_change = bell.ring
    view, jobs = ViewHandlers(context, peers, watch, bell), RequestHandlers(context, peers, watch, Pump(watch, bell))
    none = errors(404)
    router.add_api_route("/part", view.part, methods=["GET"], include_in_schema=False)
    router.add_api_route("/overview", view.overview, methods=["GET"])
    router.add_api_route("/series", view.series, methods=["GET"])
    router.add_api_route("/events", jobs.events, methods=["GET"], include_in_schema=False)  # it has no end
    router.add_api_route("/requests", jobs.list_requests, methods=["GET"])
    router.add_api_route("/requests/{job_id}", jobs.show_request, methods=["GET"], responses=none)
    router.add_api_route("/workflows/{name}", view.workflow, methods=["GET"], responses=none)
    router.add_api_route("/caches", view.caches, methods=["GET"])
    router.add_api_route("/decisions", view.decisions, methods=["GET"])
    router.add_api_route("/errors", view.errors, methods=["GET"])
    return router


class ViewHandlers:
    """Answers for operators; a method's docstring is its description in the API's schema."""

    def __init__(self, context: Context, peers: Peers | None, watch: Watch, bell: Bell) -> None:
        self._context, self._peers, self._watch, self._bell = context, peers, watch, bell

    async def part(self, request: Request, since: str = "", wait: float = 0.0, rings: int = -1) -> JSONResponse:
        """What this gateway has to say to another one, and those beside it to another machine.

        With ``wait`` it answers when something has happened here, ``rings`` times up to now, or after these seconds.
        """
        if self._peers is None or not self._peers.is_trusted(request):
            raise Forbidden("Only the other gateways of this server ask this.")
        await self._bell.wait(rings, max(0.0, min(MOST_WAIT_S, wait)))
        rings, recorder = self._bell.rings, self._watch.recorder
        parts = [part_of(recorder, since_of(since, recorder))]
        if request.headers[HEADER] == MACHINE:
            beside = await self._peers.beside()
            answers = await asyncio.gather(*(peer.ask(f"/v1/admin/part?since={since}") for peer in beside))
            parts += [part for answer in answers if answer is not None for part in answer["parts"]]
        return JSONResponse({"object": "parts", "rings": rings, "parts": parts})

    async def overview(self, request: Request, window: int = WINDOWS[0]) -> JSONResponse:
        """Figures of the last 300 or 3600 seconds, alerts, and each model with its nodes."""
        self._context.authenticate(request, admin=True)
        await self._watch.refresh()
        return JSONResponse(overview_of(self._watch, _window(window)) | {"seq": self._watch.version})

    async def series(
        self, request: Request, window: int = WINDOWS[0], names: str = "", model: str = ""
    ) -> JSONResponse:
        """Figures over time, all or some `names` of them, of all models or of one; null where nothing happened."""
        self._context.authenticate(request, admin=True)
        wanted = _some_of("names", names, NAMES)
        await self._watch.refresh()
        return JSONResponse(series_of(self._watch, _window(window), model, wanted))

    async def workflow(self, request: Request, name: str) -> JSONResponse:
        """A workflow as a graph, with how long its nodes took lately, and what goes along its edges."""
        self._context.authenticate(request, admin=True)
        workflow = self._context.runner.workflows.get(name)
        if workflow is None:
            message = did_you_mean("workflow", name, self._context.runner.workflows, "GET /v1/models lists them")
            raise NotFound(message, param="name", code="model_not_found")
        times = [self._watch.recorder.times(name)]
        if self._peers is not None:
            for answer in await self._peers.ask(request, "GET", f"/v1/admin/workflows/{quote(name, safe='')}"):
                times += answer["every"]
        if is_from_peer(request):
            return JSONResponse({"object": "times", "every": times})
        recorder = self._watch.recorder
        target = {"slo_s": recorder.slo_s(name), "factor": recorder.solo.FACTOR}
        return JSONResponse(graph_of(workflow, times) | {"target": target})

    async def caches(self, request: Request) -> JSONResponse:
        """What replicas keep in memory by kind and model, and how often it was found there."""
        self._context.authenticate(request, admin=True)
        await self._watch.refresh()
        return JSONResponse(caches_of(self._watch))

    async def decisions(self, request: Request, kind: str = "", limit: int = 100, cursor: str = "") -> JSONResponse:
        """What changed the course of things, the last first: losses, drains, refusals, pauses, each with its reason."""
        self._context.authenticate(request, admin=True)
        await self._watch.refresh()
        every = [each for each in self._watch.decisions() if kind in ("", each["kind"])]
        return JSONResponse(_page(every, limit, cursor))

    async def errors(self, request: Request, limit: int = 100, cursor: str = "") -> JSONResponse:
        """The errors that requests ended with, by code and node, the last first."""
        self._context.authenticate(request, admin=True)
        await self._watch.refresh()
        found: dict[tuple[str, str], dict[str, Any]] = {}
        for gateway in self._watch.gateways.values():
            for error in gateway.errors:
                known = found.setdefault((error["code"], error["node"]), {**error, "count": 0})
                count = known["count"] + error["count"]
                known.update({**(error if error["last"] >= known["last"] else known), "count": count})
        return JSONResponse(_page(sorted(found.values(), key=lambda each: -each["last"]), limit, cursor))


class RequestHandlers:
    """Answers about requests: to operators about all, to others about their own tenant's."""

    def __init__(self, context: Context, peers: Peers | None, watch: Watch, pump: Pump) -> None:
        self._context, self._peers, self._watch, self._pump = context, peers, watch, pump
        self._stream = Stream(watch, pump)

    async def list_requests(self, request: Request, limit: int = 100, cursor: str = "") -> JSONResponse:
        """Requests in flight and ended, filtered by `state`, `workflow`, `tenant`, `outcome`, `over_s` and `q`."""
        caller = self._context.authenticate(request)
        is_shown = _filter(caller, request.query_params)
        sort = request.query_params.get("sort", "")
        if sort not in ("", *SORTS):
            raise RequestError(f"`sort` must be one of {', '.join(SORTS)}.", param="sort")
        await self._watch.refresh()
        rows = [row for row in self._watch.rows() if is_shown(row)]
        if sort:
            rows.sort(key=lambda row: float(row[sort.removeprefix("-")]), reverse=sort.startswith("-"))
        return JSONResponse(_page(rows, limit, cursor))

    async def show_request(self, request: Request, job_id: str) -> JSONResponse:
        """One request, in flight or lately ended: its nodes in time, its steps, and what happened to it."""
        caller = self._context.authenticate(request)
        runner = self._context.runner
        record = runner.journal.history.get(job_id)
        if record is not None and (caller.is_admin or record.tenant == caller.tenant):
            return JSONResponse(detail_of(self._watch.recorder, record, runner.story(job_id)))
        if self._peers is not None:
            for found in await self._peers.ask(request, "GET", f"/v1/admin/requests/{quote(job_id, safe='')}"):
                return JSONResponse(found)
        raise NotFound("There is no request of this id, nor was there one lately.", code="job_not_found")

    async def events(self, request: Request, window: int = WINDOWS[0], views: str = "", model: str = "") -> Response:
        """All that the dashboard shows, once as a `snapshot`, then what has changed, as a `patch`."""
        caller = self._context.authenticate(request, admin=True)
        is_shown, parts = _filter(caller, request.query_params), _some_of("views", views, VIEWS)
        wanted = Wanted(request.url.query, _window(window), is_shown, model, parts)
        self._pump.enter()
        stream = self._stream.events(wanted, request.headers.get("last-event-id", ""))
        return StreamingResponse(stream, media_type="text/event-stream", headers=HEADERS)


def _filter(caller: Caller, query: Mapping[str, str]) -> RowFilter:
    """Return which rows a query asks for, of those that its caller may see.  Raises RequestError."""
    try:
        over_s = float(query.get("over_s") or 0)
    except ValueError:
        over_s = math.nan
    if not math.isfinite(over_s):
        raise RequestError("`over_s` must be a number of seconds.", param="over_s")
    words = query.get("q", "").lower().split()
    tenant = query.get("tenant", "") if caller.is_admin else caller.tenant
    exact = {name: query[name] for name in ("state", "workflow", "outcome") if query.get(name)}

    def is_shown(row: Mapping[str, Any]) -> bool:
        text = f"{row['id']} {row['workflow']} {row['tenant']} {' '.join(row['flags'])} {row['outcome']}".lower()
        return (
            (not tenant or row["tenant"] == tenant)
            and all(row[name] == value for name, value in exact.items())
            and row["age_s"] >= over_s
            and all(word in text for word in words)
        )

    return is_shown


def _page(rows: Sequence[Mapping[str, Any]], limit: int, cursor: str) -> dict[str, Any]:
    """Return a page of a list; its cursor is the place in it, since lists are made anew each time."""
    if not 1 <= limit <= MOST_ROWS:
        raise RequestError(f"`limit` must lie between 1 and {MOST_ROWS}.", param="limit", code="out_of_range")
    start = whole_number(cursor or "0")
    if start is None:
        raise RequestError("`cursor` must be one that an answer gave.", param="cursor")
    following = start + limit
    return {
        "object": "list",
        "data": list(rows[start:following]),
        "total": len(rows),
        "next": str(following) if following < len(rows) else None,
    }


def _some_of(param: str, text: str, known: Sequence[str]) -> Sequence[str]:
    """Return the names that a query lists, with commas; all where it lists none.  Raises RequestError."""
    names = [name for name in text.split(",") if name]
    for name in names:
        if name not in known:
            raise RequestError(f"`{param}` may name {', '.join(known)}.", param=param)
    return names or known


def _window(window: int) -> int:
    if window not in WINDOWS:
        raise RequestError(f"`window` must be {WINDOWS[0]} or {WINDOWS[1]} seconds.", param="window")
    return window
