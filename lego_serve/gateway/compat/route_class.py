"""Answers the errors of a protocol's routes in that protocol's own shape."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from lego_serve.compat.task import Refused
from lego_serve.errors import LegoError, RequestError
from lego_serve.gateway.errors import ENDED_AS, give_back_if_refused, log_error


def route_class(render: Callable[[LegoError], Response]) -> type[APIRoute]:
    """Return the class of routes whose errors ``render`` answers."""

    class ForeignRoute(APIRoute):
        """A route of a foreign protocol."""

        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            """Return the handler, which raises no error of ours."""
            handler = super().get_route_handler()

            async def answer(request: Request) -> Response:
                try:
                    return await handler(request)
                except Refused as refused:
                    error: LegoError = RequestError(refused.message, param=refused.field)
                except LegoError as raised:
                    error = raised
                    log_error(error)
                await give_back_if_refused(request, error)
                request.scope.setdefault("state", {})[ENDED_AS] = error.code
                return render(error)

            return answer

    return ForeignRoute
