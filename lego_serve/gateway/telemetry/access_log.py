"""Logs one line for each request, and one more for each action of an operator.

A line names the route's template, never the path or the query: they may hold a signature, or whatever a client likes.
What a request asked for stands in no line, unless ``log_prompts`` was set.
"""

import logging
import time
from dataclasses import dataclass

from starlette.requests import HTTPConnection, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lego_serve.gateway.errors import CLIENT_LEFT, CUT_SHORT_AS, CUT_SHORT_STATUS, ENDED_AS, REFUSED_AS
from lego_serve.gateway.peers import is_from_peer
from lego_serve.gateway.telemetry.trace_context import trace_id
from lego_serve.gateway.telemetry.tracing import hide_query
from lego_serve.process.json_logging import ACCESS_LOG, AUDIT_LOG
from lego_serve.process.log_facts import LogFacts, log_facts, logged_with

access_log, audit_log = logging.getLogger(ACCESS_LOG), logging.getLogger(AUDIT_LOG)
ADMIN_KEY, ADMIN_TARGET = "admin_key", "admin_target"  # in a request's state
SWITCHED, FORBIDDEN = 101, 403
READING = ("GET", "HEAD", "OPTIONS")


def note_admin_route(request: Request, key_id: str | None) -> None:
    """Note that a request is for operators alone, and which key it has; None is no key that is known."""
    request.scope["state"][ADMIN_KEY] = key_id or "none"


def note_admin_target(request: Request, name: str) -> None:
    """Note what an operator's request is about, where its path does not say."""
    request.scope["state"][ADMIN_TARGET] = name


@dataclass(slots=True)
class _Answer:
    """What was sent of an answer."""

    status: int | None = None
    body_bytes: int = 0

    def note(self, message: Message) -> None:
        """Note a message to the client; of a WebSocket also whether it was accepted."""
        match message["type"]:
            case "http.response.start" | "websocket.http.response.start":
                self.status = message["status"]
            case "websocket.accept":
                self.status = SWITCHED
            case "websocket.close" if self.status is None:
                self.status = FORBIDDEN
        content = message.get("body") or message.get("bytes") or message.get("text") or ""
        self.body_bytes += len(content)


class AccessLog:
    """Logs at its end every request, and every operator's action; without ``has_requests`` the actions alone.

    It has every line that is logged on the way name the request, and its query nowhere told.
    """

    def __init__(self, app: ASGIApp, *, has_requests: bool = True) -> None:
        self._app, self._has_requests = app, has_requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and log it."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        started_s, answer = time.monotonic(), _Answer()

        async def send_and_note(message: Message) -> None:
            answer.note(message)
            await send(message)

        if scope.get("query_string"):
            hide_query()
        request_id = scope.setdefault("state", {}).get("request_id")
        with logged_with(LogFacts(request_id, trace_id=trace_id(scope["headers"]))):
            try:
                await self._app(scope, receive, send_and_note)
            finally:
                self._log(HTTPConnection(scope), answer, time.monotonic() - started_s)

    def _log(self, request: HTTPConnection, answer: _Answer, duration_s: float) -> None:
        scope, state = request.scope, request.scope["state"]
        method, template = scope.get("method", "GET"), getattr(scope.get("route"), "path", None)
        status = state.get(CUT_SHORT_STATUS) or answer.status or CLIENT_LEFT
        error = next((state[name] for name in (CUT_SHORT_AS, REFUSED_AS, ENDED_AS) if name in state), None)
        if self._has_requests and not _is_supervisors(request, template):
            fields = {"method": method, "route": template, "status": status}
            fields |= {"duration_s": round(duration_s, 6), "bytes": answer.body_bytes}
            fields |= {"error": error} if error else {}
            fields |= {} if (prompt := log_facts().prompt) is None else {"prompt": prompt}
            access_log.info("%s %s: %d", method, template or "no route", status, extra={"fields": fields})
        if ADMIN_KEY in state and method not in READING and not _is_peers(request):
            _log_action(request, error or ("ok" if status < 400 else str(status)))


def _is_peers(request: HTTPConnection) -> bool:
    """Whether a request comes by a gateway's own socket, which has no address; what it says itself is not enough."""
    return request.client is None and is_from_peer(request.scope)


def _is_supervisors(request: HTTPConnection, template: str | None) -> bool:
    """Whether this machine's supervisor asks, each second, whether the process lives: a line of each would be noise."""
    return request.client is None and template == "/health/live"


def _log_action(request: HTTPConnection, outcome: str) -> None:
    state, action = request.scope["state"], getattr(request.scope.get("endpoint"), "__name__", "unknown")
    target = state.get(ADMIN_TARGET) or "/".join(map(str, request.path_params.values()))
    fields = {"action": action, "target": target, "key": state[ADMIN_KEY], "outcome": outcome}
    audit_log.info("%s of %s: %s", action, target, outcome, extra={"fields": fields})
