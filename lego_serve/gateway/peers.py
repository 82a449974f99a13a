"""Asks the other gateway processes of this server, each behind a socket of its own in one folder.

A job lives in the process that accepted it; what concerns a job of another process is asked of all of them.
"""

import asyncio
import logging
from pathlib import Path
from typing import Any

import httpx2
from fastapi import Request

HEADER = "x-lego-peer"  # marks a peer's request, which a gateway answers for itself alone
TIMEOUT_S = 5.0
# A connection to a socket costs nothing worth keeping it for, and a kept one may be closed by its other end meanwhile.
LIMITS = httpx2.Limits(max_keepalive_connections=0)
log = logging.getLogger("lego_serve.gateway")


class Peers:
    """The sockets of a server's gateways, with a client for each that was asked; ``own`` is this process's."""

    def __init__(self, folder: Path, own: Path) -> None:
        self._folder, self._own = folder, own
        self._clients: dict[Path, httpx2.AsyncClient] = {}

    async def ask(self, request: Request, method: str, path: str) -> list[Any]:
        """Return the others' answers of status 200 to the same caller; none where the request is a peer's."""
        if is_from_peer(request):
            return []
        headers = {HEADER: "1"}
        if "authorization" in request.headers:
            headers["authorization"] = request.headers["authorization"]
        clients = await self._current_clients()
        answers = await asyncio.gather(*(_ask(client, method, path, headers) for client in clients))
        return [answer for answer in answers if answer is not None]

    async def close(self) -> None:
        """Close all clients."""
        clients, self._clients = self._clients, {}
        for client in clients.values():
            await client.aclose()

    async def _current_clients(self) -> list[httpx2.AsyncClient]:
        """Return a client for each other gateway, and close those of gateways that are gone."""
        sockets = [socket for socket in sorted(self._folder.glob("*.sock")) if socket != self._own]
        gone = [self._clients.pop(socket) for socket in set(self._clients) - set(sockets)]
        for socket in sockets:
            if socket not in self._clients:
                self._clients[socket] = _client(socket)
        clients = [self._clients[socket] for socket in sockets]
        for client in gone:
            await client.aclose()
        return clients


def is_from_peer(request: Request) -> bool:
    """Whether a request comes from a gateway, which wants an answer for this process alone."""
    return HEADER in request.headers


def _client(socket: Path) -> httpx2.AsyncClient:
    # Without `verify=False` it would read the machine's certificates, a tenth of a second, for a socket without TLS.
    transport = httpx2.AsyncHTTPTransport(uds=str(socket), verify=False, trust_env=False, limits=LIMITS)
    return httpx2.AsyncClient(transport=transport, base_url="http://gateway", timeout=TIMEOUT_S, trust_env=False)


async def _ask(client: httpx2.AsyncClient, method: str, path: str, headers: dict[str, str]) -> Any | None:
    try:
        answer = await client.request(method, path, headers=headers)
        return answer.json() if answer.status_code == 200 else None
    except httpx2.ConnectError:  # the process has ended, and its socket is not cleared away yet
        return None
    except (httpx2.HTTPError, ValueError):
        log.warning("a gateway did not answer for its jobs", exc_info=True)
        return None
