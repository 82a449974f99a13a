"""One WebSocket connection, which began as a request over HTTP."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import h11
from uvicorn.config import Config
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState

log = logging.getLogger("lego_serve.gateway.websockets")
log.setLevel(logging.WARNING)  # below, each connection is logged with its query


class GatewayWebSocket(WebSocketsSansIOProtocol):
    """uvicorn's protocol of a WebSocket, which says when it ends."""

    def __init__(
        self, config: Config, server_state: ServerState, app_state: dict[str, Any], on_end: Callable[[], None]
    ) -> None:
        super().__init__(config, server_state, app_state)
        self._on_end = on_end
        self.logger = self.conn.logger = log

    def take_over(self, transport: asyncio.Transport, request: h11.Request) -> None:
        """Go on with a connection on which a request has come in."""
        self.connection_made(transport)
        transport.set_protocol(self)
        lines = [b"%b %b HTTP/1.1" % (request.method, request.target)]
        lines += [b"%b: %b" % (name, value) for name, value in request.headers]
        self.data_received(b"\r\n".join([*lines, b"", b""]))

    def connection_lost(self, exc: Exception | None) -> None:
        """End a connection."""
        super().connection_lost(exc)
        self._on_end()
