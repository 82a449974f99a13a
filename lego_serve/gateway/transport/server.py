"""The gateway's HTTP server: uvicorn, with our protocol and a stop that answers every request."""

import asyncio
import signal
import socket
from functools import partial
from typing import Any

import uvicorn
from uvicorn.server import HANDLED_SIGNALS

from lego_serve.gateway.transport.draining import Draining
from lego_serve.gateway.transport.limits import AddressCounts, ConnectionLimits
from lego_serve.gateway.transport.protocol import GatewayProtocol

TICK_S = 0.05
MAX_MESSAGE_BYTES = 64 * 1024  # that a client may send over a WebSocket
ENDING_S = 1.5  # that requests have to answer when they are told to end, and once more when they are cancelled


class GatewayServer(uvicorn.Server):
    """Serves an application until a signal; then it refuses new work, waits for the rest, and ends what is left.

    The sockets stay open while requests are finishing, so that health checks and late requests are answered.
    """

    def __init__(self, config: uvicorn.Config, draining: Draining, drain_timeout_s: float) -> None:
        super().__init__(config)
        self._draining, self._drain_timeout_s = draining, drain_timeout_s

    async def listen(self, bound: socket.socket) -> None:
        """Serve on one more socket from now on; not where the server is stopping."""
        while not self.started and not self.should_exit:
            await asyncio.sleep(TICK_S)
        if self.should_exit:
            bound.close()
            return
        made: Any = self.config.http_protocol_class
        protocol = partial(
            made,
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        loop = asyncio.get_running_loop()
        self.servers.append(await loop.create_server(protocol, sock=bound, backlog=self.config.backlog))

    def handle_signals(self) -> None:
        """Handle the signals that end the server, where something else has taken them; on the main thread."""
        for number in HANDLED_SIGNALS:
            signal.signal(number, self.handle_exit)

    def stop(self) -> None:
        """Have the server stop as for a signal."""
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop, in at most the drain timeout and a few seconds."""
        self._draining.begin()
        await self._wait_until_idle(self._drain_timeout_s)
        self._draining.expire()
        await self._wait_until_idle(ENDING_S)
        for task in self.server_state.tasks:
            task.cancel()
        await self._wait_until_idle(ENDING_S)
        await super().shutdown(sockets)

    async def _wait_until_idle(self, most_s: float) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + most_s
        while self.server_state.tasks and loop.time() < end and not self.force_exit:
            await asyncio.sleep(TICK_S)


def create_server(
    app: Any,
    limits: ConnectionLimits,
    draining: Draining,
    drain_timeout_s: float = 20.0,
    **options: Any,
) -> GatewayServer:
    """Build the server of an application; ``options`` are further ones of uvicorn's.

    The application's state says at which paths it takes WebSockets.
    """
    sockets: frozenset[str] = getattr(getattr(app, "state", None), "sockets", frozenset())
    addresses = AddressCounts(limits.connections_per_address)
    protocol: Any = partial(GatewayProtocol, limits=limits, addresses=addresses, sockets=sockets)
    config = uvicorn.Config(
        app,
        http=protocol,
        ws="none",  # the protocol opens those that there are
        ws_max_size=MAX_MESSAGE_BYTES,
        ws_per_message_deflate=False,
        access_log=False,
        server_header=False,
        timeout_keep_alive=limits.keep_alive_s,  # type: ignore[arg-type]  # uvicorn only hands it to the event loop
        timeout_graceful_shutdown=1,
        **options,
    )
    return GatewayServer(config, draining, drain_timeout_s)
