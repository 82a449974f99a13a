"""ASGI middleware: request ids, unexpected errors, HEAD, what is not read of a body, and the stop of the server."""

import asyncio
import logging
import os
import re
import time
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lego_serve.errors import LegoError
from lego_serve.gateway.errors import (
    ANSWER_HEADERS,
    ENDED_AS,
    REFUSED_AS,
    ServerStopping,
    TooLarge,
    WrongMediaType,
    error_response,
    refusal,
)
from lego_serve.gateway.transport.draining import Draining

log = logging.getLogger("lego_serve.gateway")
REQUEST_ID = re.compile(rb"[A-Za-z0-9_.-]{1,128}")
NO_SNIFFING = (b"x-content-type-options", b"nosniff")  # browsers take the type that an answer says
IMAGE_ROUTES = "/v1/images/"
CLOSE = (b"connection", b"close")
DISCARD_BYTES = 256 * 1024  # of a body that nobody wants, before the connection is closed rather than read on
ANSWERED_WHILE_STOPPING = ("/health/", "/metrics", "/v1/admin/jobs")  # what an operator watches a stop with


class RequestIds:
    """Adds ``x-request-id`` to every answer, the caller's where it is well formed, the time it took, and ``nosniff``.

    ``on_refusal`` gets the error's code of each request for images that is refused before its route is asked.
    """

    def __init__(self, app: ASGIApp, on_refusal: Callable[[str], None]) -> None:
        self._app, self._on_refusal = app, on_refusal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and add the headers to its answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        proposed = dict(scope["headers"]).get(b"x-request-id", b"")
        request_id = proposed if REQUEST_ID.fullmatch(proposed) else os.urandom(16).hex().encode()
        scope.setdefault("state", {})["request_id"] = request_id.decode()
        began_s = time.monotonic()

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                took = (b"openai-processing-ms", b"%d" % round((time.monotonic() - began_s) * 1000))
                told = scope["state"].get(ANSWER_HEADERS, ())
                own = ((b"x-request-id", request_id), took, NO_SNIFFING)
                message["headers"] = [*message.get("headers", ()), *told, *own]
            await send(message)

        await self._app(scope, receive, send_with_headers)
        code = scope["state"].get(REFUSED_AS)
        if code is not None and scope["path"].startswith(IMAGE_ROUTES):
            self._on_refusal(code)


class CatchAll:
    """Answers an unexpected exception with our own 500, and logs it once.

    Starlette would answer it outside of all middleware, without the request's id, and log it twice.  A request that is
    cancelled because the server's last time is up is answered as well.
    """

    def __init__(self, app: ASGIApp, draining: Draining) -> None:
        self._app, self._draining = app, draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and answer where it raises."""
        is_started = False

        async def send_and_note(message: Message) -> None:
            nonlocal is_started
            is_started = is_started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        except asyncio.CancelledError:
            if not self._draining.has_expired or is_started:
                raise
            scope["state"][ENDED_AS] = ServerStopping.code
            await error_response(ServerStopping())(scope, receive, send)
        except Exception:
            log.exception("unexpected error")
            scope["state"][ENDED_AS] = LegoError.code
            if scope["type"] == "http" and not is_started:
                await error_response(LegoError("Something unexpected went wrong on the server."))(scope, receive, send)


class HeadAsGet:
    """Answers HEAD as GET, without the body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a HEAD request on as a GET request."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_without_body(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        as_get = {**scope, "method": "GET"}
        try:
            await self._app(as_get, receive, send_without_body)
        finally:
            scope["route"] = as_get.get("route")


class WhileStopping:
    """Refuses new work while the server finishes what it has, and has clients connect anew, to another server."""

    def __init__(self, app: ASGIApp, draining: Draining) -> None:
        self._app, self._draining = app, draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_and_close(message: Message) -> None:
            if message["type"] == "http.response.start" and self._draining.has_begun:
                message["headers"] = [*message.get("headers", ()), CLOSE]
            await send(message)

        is_refused = self._draining.has_begun and not scope["path"].startswith(ANSWERED_WHILE_STOPPING)
        app = refusal(scope, ServerStopping()) if is_refused else self._app
        await app(scope, receive, send_and_close)


class BodyLimit:
    """Refuses a body above the limit as soon as it is announced or has arrived, and a coded one.

    Where an answer is given before the body has arrived, what is left of a large one is not read: the connection ends.
    So it does where the client has asked whether to send its body at all, since it may send its next request instead.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app, self._max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and count the bytes of its body."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        announced = _announced_bytes(headers)
        received = 0
        is_whole = announced == 0

        async def receive_and_count() -> Message:
            nonlocal received, is_whole
            message = await receive()
            received += len(message.get("body", b""))
            is_whole = is_whole or not message.get("more_body", False)
            if received > self._max_bytes:
                raise self._too_large()
            return message

        async def send_and_close(message: Message) -> None:
            is_start = message["type"] == "http.response.start"
            is_long = announced is None or announced - received > DISCARD_BYTES or b"expect" in headers
            if is_start and not is_whole and is_long:
                message["headers"] = [*message.get("headers", ()), CLOSE]
            await send(message)

        app = self._app
        if announced is not None and announced > self._max_bytes:
            app = refusal(scope, self._too_large())
        elif headers.get(b"content-encoding", b"identity").strip().lower() not in (b"identity", b""):
            message = "The body must not be coded: send it without Content-Encoding."
            app = refusal(scope, WrongMediaType(message))
        await app(scope, receive_and_count, send_and_close)

    def _too_large(self) -> TooLarge:
        return TooLarge(f"The body is larger than {self._max_bytes} bytes.")


def _announced_bytes(headers: dict[bytes, bytes]) -> int | None:
    """Return the length of a body; None where its end is not known before it comes."""
    if b"transfer-encoding" in headers:
        return None
    length = headers.get(b"content-length", b"0")
    return int(length) if length.isdigit() else 0
