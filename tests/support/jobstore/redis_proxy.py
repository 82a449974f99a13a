"""Stands between a client and a redis-server, and may forward late, or nothing, while connections stay open."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from tests.support.jobstore.redis_server import RedisServer


class RedisProxy:
    """Forwards bytes both ways; ``forwarding`` is cleared to swallow nothing and pass nothing on."""

    def __init__(self, server: RedisServer, socket: Path) -> None:
        self._server = server
        self.url = f"unix://{socket}"
        self.forwarding = asyncio.Event()
        self.forwarding.set()
        self.delay_s = 0.0  # of each way
        self._pumps: set[asyncio.Task[None]] = set()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client."""
        try:
            behind, before = await asyncio.open_unix_connection(str(self._server.socket))
        except OSError:  # the server is away
            writer.close()
            return
        for source, target in ((reader, before), (behind, writer)):
            task = asyncio.ensure_future(self._pump(source, target))
            self._pumps.add(task)
            task.add_done_callback(self._pumps.discard)

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while chunk := await source.read(65536):
                await self.forwarding.wait()
                await asyncio.sleep(self.delay_s)
                target.write(chunk)
                await target.drain()
        target.close()

    async def close(self) -> None:
        """End all connections."""
        for task in list(self._pumps):
            task.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)


@asynccontextmanager
async def proxy_of(server: RedisServer) -> AsyncIterator[RedisProxy]:
    """Run one on a socket of its own."""
    with tempfile.TemporaryDirectory(prefix="lego-proxy-") as folder:
        proxy = RedisProxy(server, Path(folder) / "redis.sock")
        listening = await asyncio.start_unix_server(proxy.connected, str(proxy.url.removeprefix("unix://")))
        try:
            yield proxy
        finally:
            listening.close()
            await proxy.close()
