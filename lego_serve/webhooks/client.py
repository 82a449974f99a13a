"""Posts to receivers that tenants name, and connects to no address but those that were checked.

The connection pool of httpcore2 and not a client of httpx2: it follows no redirect, takes no proxy from the
environment, keeps no cookie, and has a place for the one part that is ours, how a connection is made.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from threading import Thread
from typing import TypeAlias

from httpcore2 import (
    SOCKET_OPTION,
    URL,
    AnyIOBackend,
    AsyncConnectionPool,
    AsyncNetworkStream,
    ConnectError,
    ConnectTimeout,
    default_ssl_context,
)

from lego_serve.core.durable_jobs.receivers import PORTS, ReceiverRules

Resolver: TypeAlias = Callable[[str, int], Awaitable[Sequence[str]]]
CONNECT_S = 5.0  # for one address; a host may have several


async def look_up(host: str, port: int) -> Sequence[str]:
    """Return the addresses of a host.  Raises OSError.

    In a thread of its own, which ends with the process: a name server that does not answer holds for many seconds,
    and nothing cancels it.
    """
    found: Future[Sequence[str]] = Future()
    found.set_running_or_notify_cancel()

    def ask() -> None:
        try:
            entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            found.set_result(list(dict.fromkeys(str(entry[4][0]) for entry in entries)))
        except (OSError, UnicodeError) as error:
            found.set_exception(error)

    Thread(target=ask, name="webhook-lookup", daemon=True).start()
    return await asyncio.wrap_future(found)


class CheckedBackend(AnyIOBackend):
    """Resolves a host once, has every address checked, and connects to one of those."""

    def __init__(self, rules: ReceiverRules, resolve: Resolver) -> None:
        self._rules, self._resolve = rules, resolve

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[SOCKET_OPTION] | None = None,
    ) -> AsyncNetworkStream:
        """Connect to the first address that answers.  Raises ReceiverRefused, ConnectError, ConnectTimeout, OSError."""
        failure: Exception = ConnectError("no address")
        for address in self._rules.pinned(host, port, await self._resolve(host, port)):
            try:
                return await super().connect_tcp(address, port, timeout, local_address, socket_options)
            except (ConnectError, ConnectTimeout) as error:
                failure = error
        raise failure

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[SOCKET_OPTION] | None = None
    ) -> AsyncNetworkStream:
        """Raise ConnectError: no receiver is a socket in the file system."""
        raise ConnectError("webhooks are not sent to sockets in the file system")


class WebhookClient:
    """Sends one message at a time over a connection of its own, so that each is resolved and checked anew."""

    def __init__(self, rules: ReceiverRules, timeout_s: float, resolve: Resolver = look_up) -> None:
        self._rules, self._timeout_s = rules, timeout_s
        self._pool = AsyncConnectionPool(
            default_ssl_context(),
            max_connections=None,
            max_keepalive_connections=0,
            network_backend=CheckedBackend(rules, resolve),
        )

    async def post(self, url: str, headers: Mapping[str, str], content: bytes) -> int:
        """Return the status of the answer, which is not read.

        Raises ReceiverRefused, TimeoutError where all of it takes too long, and what httpcore2 raises.
        """
        to = self._rules.check(url)
        waits = {"timeout": {"connect": CONNECT_S, "read": self._timeout_s, "write": self._timeout_s}}
        # Not the text: httpcore2 would parse it in a way of its own.
        target = URL(scheme=to.scheme, host=to.host, port=to.port, target=to.target)
        named = {"host": to.name if to.port == PORTS[to.scheme] else f"{to.name}:{to.port}", **headers}
        asked = self._pool.stream("POST", target, headers=list(named.items()), content=content, extensions=waits)
        async with asyncio.timeout(self._timeout_s), asked as answer:
            return answer.status

    async def close(self) -> None:
        """Close connections."""
        await self._pool.aclose()
