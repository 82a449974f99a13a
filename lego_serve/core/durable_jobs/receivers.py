"""Where webhooks may be sent: which URLs are taken, and which addresses are public.

One parser for all of it.  What a URL names is found out once, here, and who connects is given host and port rather than
the text: two parsers that read one text differently are how such checks are evaded.  So nothing is taken that has a
second reading: no user in it, no fragment, no backslash, no space, no letter beyond ASCII, no address but in its usual
form.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

from lego_serve.errors import RequestError

MAX_URL = 2048
MAX_LABEL = 63
PORTS = {"http": 80, "https": 443}
HOST = r"\[[0-9a-fA-F:.]{2,45}\]|[A-Za-z0-9._-]{1,253}"
URL = re.compile(
    rf"(?P<scheme>[Hh][Tt][Tt][Pp][Ss]?)://(?P<host>{HOST})(:(?P<port>[0-9]{{1,5}}))?"
    r"(?P<target>[/?][A-Za-z0-9._~!$&'()*+,;=:@/?%-]*)?",
    re.ASCII,
)
ENTRY = re.compile(rf"(?P<host>{HOST})(:(?P<port>[0-9]{{1,5}}))?", re.ASCII)
NUMBER = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]*", re.ASCII)  # a host whose last label is one is an address to resolvers
UNICAST = IPv6Network("2000::/3")  # all that is given out of IPv6; what is outside leads somewhere else
NOT_PUBLIC = tuple(
    ip_network(text)
    for text in (
        "224.0.0.0/4",  # multicast, which `is_global` lets through, as it does those below
        "192.88.99.0/24",  # relays into 6to4
        "2002::/16",  # 6to4: any IPv4 address inside
        "3fff::/20",  # for documents
    )
)


class ReceiverRefused(RequestError):
    """A webhook may not be sent to where its URL leads."""

    code = "invalid_webhook_url"

    def __init__(self, message: str = "", *, param: str | None = "webhook.url", code: str | None = None) -> None:
        super().__init__(message, param=param, code=code)


@dataclass(frozen=True, slots=True)
class Receiver:
    """What a URL names: a scheme, a host in its one form (an IPv6 address without brackets), a port, path and query."""

    scheme: str
    host: str
    port: int
    target: str

    @property
    def name(self) -> str:
        """The host as URLs have it."""
        return f"[{self.host}]" if ":" in self.host else self.host


@dataclass(frozen=True, slots=True)
class ReceiverRules:
    """Which receivers an operator lets tenants name: any public host at ``ports``, and the named ones.

    ``allowed_hosts`` are ``HOST``, which is then taken at ``ports``, or ``HOST:PORT``; their addresses may be private.
    """

    allowed_hosts: frozenset[str] = frozenset()
    ports: tuple[int, ...] = (80, 443)

    def check(self, url: str) -> Receiver:
        """Return what a URL names.  Raises ReceiverRefused where that can be told without asking a name server."""
        receiver = parse(url)
        if self._is_named(receiver.host, receiver.port):
            return receiver
        if receiver.port not in self.ports:
            known = ", ".join(map(str, self.ports))
            raise ReceiverRefused(f"`webhook.url` has port {receiver.port}; this server sends to {known}.")
        is_local = receiver.host == "localhost" or receiver.host.endswith(".localhost")
        if is_local or (_is_address(receiver.host) and not is_public(receiver.host)):
            raise ReceiverRefused("`webhook.url` leads to an address that is not public.")
        return receiver

    def pinned(self, host: str, port: int, addresses: Sequence[str]) -> tuple[str, ...]:
        """Return the addresses of a host that may be connected to: all of them, or none.

        Raises ReceiverRefused.  A host with one private address among public ones is refused as a whole: which of
        them a connection took would be chance.
        """
        if not addresses:
            raise ReceiverRefused("The host of `webhook.url` has no address.")
        if not self._is_named(host, port) and not all(map(is_public, addresses)):
            raise ReceiverRefused("The host of `webhook.url` has an address that is not public.")
        return tuple(addresses)

    def _is_named(self, host: str, port: int) -> bool:
        name = f"[{host}]" if ":" in host else host
        return f"{name}:{port}" in self.allowed_hosts or (name in self.allowed_hosts and port in self.ports)


def parse(url: str) -> Receiver:
    """Return what a URL names.  Raises ReceiverRefused for what is no plain http or https URL."""
    if len(url) > MAX_URL:
        raise ReceiverRefused(f"`webhook.url` is longer than {MAX_URL} characters.")
    found = URL.fullmatch(url)
    if found is None:
        raise ReceiverRefused(
            "`webhook.url` must be `https://HOST/PATH` or `http://HOST/PATH` in ASCII, without user and fragment."
        )
    scheme = found["scheme"].lower()
    port = PORTS[scheme] if found["port"] is None else int(found["port"])
    if not 1 <= port <= 65535:
        raise ReceiverRefused(f"`webhook.url` has port {port}; ports go from 1 to 65535.")
    target = found["target"] or "/"
    return Receiver(scheme, _host(found["host"]), port, target if target.startswith("/") else f"/{target}")


def allowed_entry(text: str) -> str:
    """Return an entry of ``allowed_hosts`` in its one form.  Raises ValueError."""
    found = ENTRY.fullmatch(text)
    port = None if found is None or found["port"] is None else int(found["port"])
    if found is None or port == 0 or (port or 0) > 65535:
        raise ValueError(f"`{text}` is no host, such as `n8n`, `n8n:5678` or `[fd00::1]:5678`")
    try:
        host = _host(found["host"])
    except ReceiverRefused:
        raise ValueError(f"`{text}` has no host that a URL can name") from None
    name = f"[{host}]" if ":" in host else host
    return name if port is None else f"{name}:{port}"


def is_public(address: str) -> bool:
    """Whether an address is one of the internet, and none that leads into another network or to many at once."""
    found = ip_address(address)
    if isinstance(found, IPv6Address):
        if found.ipv4_mapped is not None:
            return is_public(str(found.ipv4_mapped))
        if found not in UNICAST:  # so neither NAT64, nor addresses that hold an IPv4 one, nor what sites had once
            return False
    return found.is_global and not any(found in network for network in NOT_PUBLIC if network.version == found.version)


def _host(text: str) -> str:
    """Return a host in its one form.  Raises ReceiverRefused."""
    if text.startswith("["):
        try:
            return IPv6Address(text[1:-1]).compressed
        except ValueError:
            raise ReceiverRefused("`webhook.url` has no IPv6 address between its brackets.") from None
    host = text.lower().removesuffix(".")
    labels = host.split(".")
    if not all(1 <= len(label) <= MAX_LABEL for label in labels):
        raise ReceiverRefused("`webhook.url` has no host that a name server could know.")
    if NUMBER.fullmatch(labels[-1]) and not _is_address(host):
        raise ReceiverRefused("`webhook.url` has an address in an unusual form; write four numbers from 0 to 255.")
    return host


def _is_address(host: str) -> bool:
    try:
        return isinstance(ip_address(host), IPv4Address | IPv6Address)
    except ValueError:
        return False
