"""A receiver of webhooks on this machine: a small HTTP server that notes what it gets."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ssl import SSLContext


@dataclass(frozen=True, slots=True)
class Delivery:
    """One request as it came: its first line, its headers by small letters, its body."""

    line: str
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True)
class Receiver:
    """Answers with ``statuses`` one after the other, the last of them for ever; ``hold`` keeps all answers back."""

    statuses: Sequence[int] = (204,)
    headers: Sequence[str] = ()
    hold: asyncio.Event = field(default_factory=asyncio.Event)
    got: list[Delivery] = field(default_factory=list)
    connections: int = 0
    port: int = 0

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection, which has one request."""
        self.connections += 1
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:-2])}
            body = await reader.readexactly(int(headers["content-length"]))
            status = self.statuses[min(len(self.got), len(self.statuses) - 1)]
            self.got.append(Delivery(head[0], headers, body))
            await self.hold.wait()
            answer = [f"HTTP/1.1 {status} Word", *self.headers, "content-length: 0", "", ""]
            writer.write("\r\n".join(answer).encode())
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the sender left
        finally:
            writer.close()


@asynccontextmanager
async def receiving(
    statuses: Sequence[int] = (204,), headers: Sequence[str] = (), *, held: bool = False, tls: SSLContext | None = None
) -> AsyncIterator[Receiver]:
    """Run a receiver; a held one answers when its ``hold`` is set."""
    receiver = Receiver(statuses, headers)
    if not held:
        receiver.hold.set()
    server = await asyncio.start_server(receiver.answer, "127.0.0.1", 0, ssl=tls)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        receiver.hold.set()
        server.close()
