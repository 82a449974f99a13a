"""Routes that are reached on the shortest way through FastAPI."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.routing import APIRoute


class DirectRoute(APIRoute):
    """Calls an endpoint that takes nothing but the request at once; FastAPI reads parameters for the others only."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the endpoint, or what calls it."""
        needs = self.dependant
        read = (needs.path_params, needs.query_params, needs.header_params, needs.cookie_params, needs.body_params)
        if any(read) or needs.dependencies or needs.request_param_name != "request":
            return super().get_route_handler()
        handler: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return handler


def add_routes(app: FastAPI, router: APIRouter) -> None:
    """Add the routes of a router as the application's own: those of an included one are searched twice."""
    app.router.routes.extend(router.routes)
