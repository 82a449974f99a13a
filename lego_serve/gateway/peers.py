"""Asks the other gateway processes of this server: those of this machine, and those of others.

A job lives in the process that accepted it; what concerns a job of another process is asked of all of them.  Those of
this machine have each a socket in one folder.  Other machines are the addresses of one name; whichever process answers
there asks the others beside it.
"""

import asyncio
import hmac
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
from fastapi import Request
from starlette.datastructures import Headers
from starlette.types import Scope

HEADER = "x-lego-peer"  # marks a peer's request
TOKEN_HEADER = "x-lego-peer-token"  # by which a gateway asks for itself and for no caller
PROCESS, MACHINE = "1", "machine"  # which a gateway answers for itself alone, or with those beside it
TIMEOUT_S = 5.0
# A connection to a socket costs nothing worth keeping it for, and a kept one may be closed by its other end meanwhile.
LIMITS = httpx2.Limits(max_keepalive_connections=0)
log = logging.getLogger("lego_serve.gateway")


class Peers:
    """The sockets of a server's gateways, with a client for each that was asked; ``own`` is this process's."""

    def __init__(self, folder: Path, own: Path, machines: "Machines | None" = None) -> None:
        self._folder, self._own, self._machines = folder, own, machines
        self._clients: dict[Path, httpx2.AsyncClient] = {}
        self.token: Callable[[], str] = lambda: ""  # what gateways of one configuration know

    async def ask(self, request: Request, method: str, path: str) -> list[Any]:
        """Return the others' answers of status 200 to the same caller; none where the request is a peer's.

        A peer on another machine hears from those beside this process as well.
        """
        asked_as = request.headers.get(HEADER)
        if asked_as not in (None, MACHINE):
            return []
        key = {name: request.headers[name] for name in ("authorization",) if name in request.headers}
        asked = [_ask(client, method, path, key | {HEADER: PROCESS}) for client in await self._current_clients()]
        if asked_as is None and self._machines is not None:
            asked += [_ask(client, method, path, key | {HEADER: MACHINE}) for client in await self._machines.clients()]
        return [answer for answer in await asyncio.gather(*asked) if answer is not None]

    async def current(self) -> list["Peer"]:
        """Return those that a gateway asks for itself: the others of this machine, and the other machines."""
        found = [Peer(client, PROCESS, self.token) for client in await self._current_clients()]
        if self._machines is not None:
            found += [Peer(client, MACHINE, self.token) for client in await self._machines.clients()]
        return found

    async def beside(self) -> list["Peer"]:
        """Return the others of this machine."""
        return [Peer(client, PROCESS, self.token) for client in await self._current_clients()]

    def is_trusted(self, request: Request) -> bool:
        """Whether a request is another gateway's own, of the same configuration."""
        given = request.headers.get(TOKEN_HEADER, "").encode()  # `compare_digest` takes text in ASCII alone
        return is_from_peer(request) and hmac.compare_digest(given, self.token().encode())

    async def close(self) -> None:
        """Close all clients."""
        clients, self._clients = self._clients, {}
        for client in clients.values():
            await client.aclose()
        if self._machines is not None:
            await self._machines.close()

    async def _current_clients(self) -> list[httpx2.AsyncClient]:
        """Return a client for each other gateway, and close those of gateways that are gone."""
        paths = [path for path in sorted(self._folder.glob("*.sock")) if path != self._own]
        gone = [self._clients.pop(path) for path in set(self._clients) - set(paths)]
        for path in paths:
            if path not in self._clients:
                self._clients[path] = _client(path)
        clients = [self._clients[path] for path in paths]
        for client in gone:
            await client.aclose()
        return clients


@dataclass(frozen=True, slots=True)
class Peer:
    """A gateway, or a machine with several, that another one asks for itself; two are equal where the client is."""

    client: httpx2.AsyncClient
    asked_as: str
    token: Callable[[], str] = field(compare=False)

    async def ask(self, path: str) -> Any | None:
        """Return its answer; None where there is none of status 200."""
        return await _ask(self.client, "GET", path, {HEADER: self.asked_as, TOKEN_HEADER: self.token()})


class Machines:
    """The other machines with gateways: the addresses of one name, ``NAME:PORT``, without this machine's own."""

    def __init__(self, name_and_port: str) -> None:
        self._name, _, port = name_and_port.rpartition(":")
        self._port = int(port)
        self._clients: dict[str, httpx2.AsyncClient] = {}

    async def clients(self) -> list[httpx2.AsyncClient]:
        """Return a client for each other machine there is now; none where the name is not known, which is logged."""
        try:
            addresses = await asyncio.to_thread(_other_addresses, self._name, self._port)
        except OSError as error:
            log.warning("the gateways of other machines were not found: %s", error.strerror)
            addresses = set()
        gone = [self._clients.pop(address) for address in set(self._clients) - addresses]
        for address in addresses - set(self._clients):
            self._clients[address] = _remote_client(address, self._port)
        for client in gone:
            await client.aclose()
        return list(self._clients.values())

    async def close(self) -> None:
        """Close all clients."""
        clients, self._clients = self._clients, {}
        for client in clients.values():
            await client.aclose()


def _other_addresses(name: str, port: int) -> set[str]:
    """The addresses of a name that are not this machine's: a socket can be bound to one of one's own alone."""
    found = {info[4][0] for info in socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)}
    return {str(address) for address in found if not _is_own(str(address))}


def _is_own(address: str) -> bool:
    try:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def is_from_peer(asked: Request | Scope) -> bool:
    """Whether a request comes from a gateway, which has done what only one of them is to do."""
    return HEADER in (asked.headers if isinstance(asked, Request) else Headers(scope=asked))


def _remote_client(address: str, port: int) -> httpx2.AsyncClient:
    transport = httpx2.AsyncHTTPTransport(verify=False, trust_env=False, limits=LIMITS)
    host = f"[{address}]" if ":" in address else address
    return httpx2.AsyncClient(transport=transport, base_url=f"http://{host}:{port}", timeout=TIMEOUT_S, trust_env=False)


def _client(path: Path) -> httpx2.AsyncClient:
    # Without `verify=False` it would read the machine's certificates, a tenth of a second, for a socket without TLS.
    transport = httpx2.AsyncHTTPTransport(uds=str(path), verify=False, trust_env=False, limits=LIMITS)
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
