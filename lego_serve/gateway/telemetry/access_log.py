"""Logs one line for each request, and one more for each action of an operator.

A line names the route's template, never the path or the query: they may hold a signature, or whatever a client likes.
What a request asked for stands in no line, unless ``log_prompts`` was set.
"""

import logging
import time
from dataclasses import dataclass

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lego_serve.gateway.errors import CLIENT_LEFT, CUT_SHORT_AS, CUT_SHORT_STATUS, ENDED_AS, REFUSED_AS
from lego_serve.gateway.peers import is_from_peer
from lego_serve.process.json_logging import ACCESS_LOG, AUDIT_LOG
from lego_serve.process.log_facts import log_facts

access_log, audit_log = logging.getLogger(ACCESS_LOG), logging.getLogger(AUDIT_LOG)
ADMIN_KEY, ADMIN_TARGET = "admin_key", "admin_target"  # in a request's state
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


class AccessLog:
    """Logs at its end every request, and every operator's action; without ``has_requests`` the actions alone."""

    def __init__(self, app: ASGIApp, *, has_requests: bool = True) -> None:
        self._app, self._has_requests = app, has_requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and log it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started_s, answer = time.monotonic(), _Answer()

        async def send_and_count(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer.status = message["status"]
            answer.body_bytes += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, send_and_count)
        finally:
            self._log(Request(scope), answer, time.monotonic() - started_s)

    def _log(self, request: Request, answer: _Answer, duration_s: float) -> None:
        state, template = request.scope["state"], getattr(request.scope.get("route"), "path", None)
        status = state.get(CUT_SHORT_STATUS) or answer.status or CLIENT_LEFT
        error = next((state[name] for name in (CUT_SHORT_AS, REFUSED_AS, ENDED_AS) if name in state), None)
        if self._has_requests:
            fields = {"method": request.method, "route": template, "status": status}
            fields |= {"duration_s": round(duration_s, 6), "bytes": answer.body_bytes}
            fields |= {"error": error} if error else {}
            fields |= {} if (prompt := log_facts().prompt) is None else {"prompt": prompt}
            access_log.info("%s %s: %d", request.method, template or "no route", status, extra={"fields": fields})
        if ADMIN_KEY in state and request.method not in READING and not _is_peers(request):
            _log_action(request, error or ("ok" if status < 400 else str(status)))


def _is_peers(request: Request) -> bool:
    """Whether a request comes by a gateway's own socket, which has no address; what it says itself is not enough."""
    return request.client is None and is_from_peer(request)


def _log_action(request: Request, outcome: str) -> None:
    state, action = request.scope["state"], getattr(request.scope.get("endpoint"), "__name__", "unknown")
    target = state.get(ADMIN_TARGET) or "/".join(map(str, request.path_params.values()))
    fields = {"action": action, "target": target, "key": state[ADMIN_KEY], "outcome": outcome}
    audit_log.info("%s of %s: %s", action, target, outcome, extra={"fields": fields})
