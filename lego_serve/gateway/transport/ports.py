"""ASGI middleware for what each port answers: the API's own, that of operators, and either before models are there."""

from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from lego_serve.errors import LegoError, NotFound
from lego_serve.gateway.errors import ROUTE_ERRORS, ServerStarting, refusal
from lego_serve.gateway.peers import is_from_peer

OPERATIONS = ("/metrics", "/v1/admin", "/dashboard")  # never on the API's port where they have one of their own
HEALTH = ("/health/",)
FILES = ("/static/", "/v1/ui")  # what pages are made of, on either port


class WhileStarting:
    """Refuses what needs models until they have answered once; whether they still do is for health checks."""

    def __init__(self, app: ASGIApp, is_ready: Callable[[], bool]) -> None:
        self._app, self._is_ready = app, is_ready
        self._has_started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        self._has_started = self._has_started or self._is_ready()
        is_passed = (
            self._has_started or scope["type"] != "http" or scope["path"].startswith((*HEALTH, *OPERATIONS, *FILES))
        )
        is_passed = is_passed or scope["path"] == "/"  # the playground says it itself
        await (self._app if is_passed else refusal(scope, ServerStarting()))(scope, receive, send)


class SplitPorts:
    """Answers the routes of operators on a port of their own, and all others elsewhere; sockets answer everything."""

    def __init__(self, app: ASGIApp, operations_port: int) -> None:
        self._app, self._operations_port = app, operations_port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on where its port answers it."""
        refused = scope["type"] == "http" and not self._is_answered(scope)
        await (refusal(scope, _no_route()) if refused else self._app)(scope, receive, send)

    def _is_answered(self, scope: Scope) -> bool:
        port = (scope.get("server") or ("", None))[1]
        if port is None or scope["path"].startswith((*HEALTH, *FILES)):
            return True
        is_for_operators = scope["path"].startswith(OPERATIONS)
        return is_for_operators or is_from_peer(scope) if port == self._operations_port else not is_for_operators


def _no_route() -> LegoError:
    message, code = ROUTE_ERRORS[404]
    return NotFound(message, code=code)
