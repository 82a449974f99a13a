"""ASGI middleware: request ids, unexpected errors and the bound of a body."""

import logging
import re
import uuid

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lego_serve.errors import LegoError
from lego_serve.gateway.errors import TooLarge, error_response

log = logging.getLogger("lego_serve.gateway")
REQUEST_ID = re.compile(rb"[A-Za-z0-9_.-]{1,128}")
NO_GUESSING = (b"x-content-type-options", b"nosniff")  # an answer is of the type it says, whatever it looks like


class RequestIds:
    """ASGI middleware: every answer carries ``x-request-id``, the caller's where it is well formed, and ``nosniff``."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and mark its answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"")
        request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex.encode()
        scope.setdefault("state", {})["request_id"] = request_id.decode()

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id), NO_GUESSING]
            await send(message)

        await self._app(scope, receive, marked)


class CatchAll:
    """ASGI middleware: what nobody expected is a 500 of ours, logged once.

    Starlette would answer it outside of all middleware, without the request's id, and log it twice.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        started = False

        async def noted(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except Exception:
            log.exception("unexpected error")
            if scope["type"] == "http" and not started:
                await error_response(LegoError("Something unexpected went wrong on the server."))(scope, receive, send)


class BodyLimit:
    """ASGI middleware: refuses a body above the limit as soon as it is announced or has arrived."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app, self._max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its body counted."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > self._max_bytes:
            await error_response(self._too_large())(scope, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._max_bytes:
                raise self._too_large()
            return message

        await self._app(scope, counted, send)

    def _too_large(self) -> TooLarge:
        return TooLarge(f"The body is larger than {self._max_bytes} bytes.")
