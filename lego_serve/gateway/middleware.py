"""ASGI middleware: request ids, unexpected errors and the largest body."""

import logging
import re
import uuid

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lego_serve.errors import LegoError
from lego_serve.gateway.errors import TooLarge, error_response

log = logging.getLogger("lego_serve.gateway")
REQUEST_ID = re.compile(rb"[A-Za-z0-9_.-]{1,128}")
NO_SNIFFING = (b"x-content-type-options", b"nosniff")  # browsers take the type that an answer says


class RequestIds:
    """Adds ``x-request-id`` to every answer, the caller's where it is well formed, and ``nosniff``."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and add the headers to its answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        proposed = dict(scope["headers"]).get(b"x-request-id", b"")
        request_id = proposed if REQUEST_ID.fullmatch(proposed) else uuid.uuid4().hex.encode()
        scope.setdefault("state", {})["request_id"] = request_id.decode()

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id), NO_SNIFFING]
            await send(message)

        await self._app(scope, receive, send_with_headers)


class CatchAll:
    """Answers an unexpected exception with our own 500, and logs it once.

    Starlette would answer it outside of all middleware, without the request's id, and log it twice.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and answer where it raises."""
        is_started = False

        async def send_and_note(message: Message) -> None:
            nonlocal is_started
            is_started = is_started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        except Exception:
            log.exception("unexpected error")
            if scope["type"] == "http" and not is_started:
                await error_response(LegoError("Something unexpected went wrong on the server."))(scope, receive, send)


class BodyLimit:
    """Refuses a body above the limit as soon as it is announced or has arrived."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app, self._max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and count the bytes of its body."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > self._max_bytes:
            await error_response(self._too_large())(scope, receive, send)
            return
        received = 0

        async def receive_and_count() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                raise self._too_large()
            return message

        await self._app(scope, receive_and_count, send)

    def _too_large(self) -> TooLarge:
        return TooLarge(f"The body is larger than {self._max_bytes} bytes.")
