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
log = logging.getLogger("lego_serve.gateway")


class Peers:
    """The sockets of a server's gateways; ``own`` is this process's."""

    def __init__(self, folder: Path, own: Path) -> None:
        self._folder, self._own = folder, own

    async def ask(self, request: Request, method: str, path: str) -> list[Any]:
        """Return the others' answers of status 200 to the same caller; none where the request is a peer's."""
        if HEADER in request.headers:
            return []
        headers = {HEADER: "1"}
        if "authorization" in request.headers:
            headers["authorization"] = request.headers["authorization"]
        sockets = [socket for socket in sorted(self._folder.glob("*.sock")) if socket != self._own]
        answers = await asyncio.gather(*(_ask(socket, method, path, headers) for socket in sockets))
        return [answer for answer in answers if answer is not None]


async def _ask(socket: Path, method: str, path: str, headers: dict[str, str]) -> Any | None:
    transport = httpx2.AsyncHTTPTransport(uds=str(socket))
    try:
        async with httpx2.AsyncClient(transport=transport, base_url="http://gateway", timeout=TIMEOUT_S) as client:
            answer = await client.request(method, path, headers=headers)
            return answer.json() if answer.status_code == 200 else None
    except httpx2.ConnectError:  # the process has ended, and its socket is not cleared away yet
        return None
    except (httpx2.HTTPError, ValueError):
        log.warning("a gateway did not answer for its jobs", exc_info=True)
        return None
