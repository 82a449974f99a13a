"""What a request from a web page may do, by its headers.

Browsers send requests of any page to any server, also to one on loopback.  Three headers tell: ``Host`` is the name
by which the page called the server (its own, in DNS rebinding), ``Origin`` is where the page came from, and
``Sec-Fetch-Site`` how far that is from here.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from typing import Literal

HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._~-]+))(?::(\d{0,5}))?")
ORIGIN = re.compile(r"(https?)://([^/?#@\s]+)")
DEFAULT_PORTS = {"http": "80", "https": "443"}
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
HERE = ("same-origin", "none")  # values of Sec-Fetch-Site; `none` is the user, by a bookmark or the address bar
Refusal = Literal["misdirected", "cross_site"]


@dataclass(frozen=True, slots=True)
class PageRequest:
    """What is known of a request: its method and path, and the headers that browsers set; None is a missing one."""

    method: str
    path: str
    host: str | None = None
    origin: str | None = None
    fetch_site: str | None = None


@dataclass(frozen=True, slots=True)
class PagePolicy:
    """Whom the server answers.

    ``hosts``: names that it is called by besides loopback's, None for any.  ``origins``: pages that may use it.
    ``is_open``: everybody is an admin, so that the browser of an admin's machine must not be an admin's tool.
    """

    hosts: frozenset[str] | None = None
    origins: Collection[str] = ()
    is_open: bool = False

    def refusal(self, request: PageRequest) -> Refusal | None:
        """Return why a request is refused; None where it is not."""
        if request.host and self.hosts is not None:
            name = host_name(request.host)
            if name is None or not (is_loopback(name) or name in self.hosts):
                return "misdirected"
        if not self.is_open or (request.method in SAFE_METHODS and not _is_admin(request.path)):
            return None
        if request.origin is None:
            return None if request.fetch_site in (None, *HERE) else "cross_site"
        is_known = request.origin in self.origins or is_same_origin(request.origin, request.host)
        return None if is_known else "cross_site"


def host_name(header: str) -> str | None:
    """Return the name in a Host header, without port and brackets, in small letters; None where there is none."""
    match = HOST.fullmatch(header)
    if match is None or (match[3] and int(match[3]) > 65535):
        return None
    return (match[1] or match[2]).lower().removesuffix(".") or None


@lru_cache(maxsize=256)
def is_loopback(name: str) -> bool:
    """Whether a host's name is this machine whatever a name server says."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


def is_same_origin(origin: str, host: str | None) -> bool:
    """Whether a page came from the host that it calls; the schemes may differ, since a proxy may have ended TLS."""
    match = ORIGIN.fullmatch(origin.lower())
    if match is None or not host:
        return False
    scheme, place = match[1], match[2]
    return _with_port(place, scheme) == _with_port(host.lower(), scheme)


def _with_port(place: str, scheme: str) -> str:
    match = HOST.fullmatch(place)
    return place if match is None or match[3] else f"{place.removesuffix(':')}:{DEFAULT_PORTS[scheme]}"


def _is_admin(path: str) -> bool:
    return path.startswith("/v1/admin")
