"""One WebSocket connection, which began as a request over HTTP."""

import logging
from collections.abc import Callable
from typing import Any

import h11
from uvicorn._types import ASGIReceiveEvent
from uvicorn.config import Config
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.frames import CloseCode, Frame

from lego_serve.gateway.transport.lingering import LingeringTransport

MAX_PARTS = 1024  # of one message
log = logging.getLogger("lego_serve.gateway.websockets")
log.setLevel(logging.WARNING)  # below, each connection is logged with its query


class GatewayWebSocket(WebSocketsSansIOProtocol):
    """uvicorn's protocol of a WebSocket, which says when it ends.

    Nothing is read while a client does not read: what it sends may ask for an answer, as each ping does.  One that
    reads too slowly is ended, and what waits for it with it.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        socket: LingeringTransport,
        on_end: Callable[[], None],
    ) -> None:
        super().__init__(config, server_state, app_state)
        self._socket, self._on_end = socket, on_end
        self.logger = self.conn.logger = log

    def take_over(self, request: h11.Request) -> None:
        """Go on with the connection, on which a request has come in."""
        self.connection_made(self._socket)
        self._socket.set_protocol(self)
        lines = [b"%b %b HTTP/1.1" % (request.method, request.target)]
        lines += [b"%b: %b" % (name, value) for name, value in request.headers]
        self.data_received(b"\r\n".join([*lines, b"", b""]))

    def pause_writing(self) -> None:
        """Leave unread what a client sends that does not read, and watch whether it reads."""
        super().pause_writing()
        self._socket.pause_reading()
        self._socket.watch_writes()

    def resume_writing(self) -> None:
        """Go on, unless the application has not taken what was read before."""
        super().resume_writing()
        self._socket.rest_writes()
        if not self.read_paused:
            self._socket.resume_reading()

    async def receive(self) -> ASGIReceiveEvent:
        """Return what the client said; uvicorn reads on then, whether or not the client does."""
        message = await super().receive()
        if not self.writable.is_set():
            self._socket.pause_reading()
        return message

    def handle_cont(self, event: Frame) -> None:
        """Take one more part of a message; parts may be empty, and count for nothing in its size."""
        if self.close_sent:
            return
        if len(self.frames) >= MAX_PARTS:
            self.conn.fail(CloseCode.MESSAGE_TOO_BIG, f"more than {MAX_PARTS} parts")
            self.handle_parser_exception()
            return
        super().handle_cont(event)

    def connection_lost(self, exc: Exception | None) -> None:
        """End a connection."""
        self._socket.forget()
        super().connection_lost(exc)
        self._on_end()
