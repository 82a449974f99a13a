"""Routes that are reached on the shortest way through FastAPI."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send

Endpoint = Callable[[Request], Coroutine[Any, Any, Response]]


class DirectRoute(APIRoute):
    """Calls an endpoint that takes nothing but the request at once; FastAPI reads parameters for the others only.

    What such an endpoint raises is answered by the application's handlers, as if raised on the longer way.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        needs = self.dependant
        read = (needs.path_params, needs.query_params, needs.header_params, needs.cookie_params, needs.body_params)
        if not any(read) and not needs.dependencies and needs.request_param_name == "request":
            self.app = _calls(endpoint)


def _calls(endpoint: Endpoint) -> Callable[[Scope, Receive, Send], Coroutine[Any, Any, None]]:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        response = await endpoint(Request(scope, receive, send))
        await response(scope, receive, send)

    return answer


def add_routes(app: FastAPI, router: APIRouter) -> None:
    """Add the routes of a router as the application's own: those of an included one are searched twice."""
    app.router.routes.extend(router.routes)
