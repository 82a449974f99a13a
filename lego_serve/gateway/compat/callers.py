"""Who makes a request of a foreign protocol: its clients know Basic credentials; the password is an API key."""

import base64
import binascii

from starlette.requests import HTTPConnection

from lego_serve.core.web_pages import SAFE_METHODS, PagePolicy, PageRequest
from lego_serve.gateway.context import Context
from lego_serve.gateway.errors import CrossSite, Misdirected, Unauthorized
from lego_serve.gateway.settings import Caller, Keys
from lego_serve.process.log_facts import log_facts

MAX_HEADER = 4096


def foreign_caller(context: Context, connection: HTTPConnection) -> Caller:
    """Return who calls; an empty header is none.  Raises Unauthorized, CrossSite, Misdirected.

    Bodies of any type are read, and browsers send Basic credentials by themselves: so web pages of other origins are
    refused here, with keys too.
    """
    keys = context.keys
    _refuse_pages(context, connection)
    caller = caller_by(keys, connection)
    if caller is None:
        raise Unauthorized("An API key is needed: as a bearer token, or as the password of Basic credentials.")
    log_facts().tenant = caller.tenant
    if keys.are_needed:
        connection.state.tenant = caller.tenant  # whose the request's body is
    return caller


def caller_by(keys: Keys, connection: HTTPConnection) -> Caller | None:
    """Return whose the bearer token or the password of a request is; None where it is nobody's and has to be."""
    return keys.caller(_token(connection.headers.get("authorization", ""))) if keys.are_needed else Caller()


def _refuse_pages(context: Context, connection: HTTPConnection) -> None:
    is_socket = connection.scope["type"] == "websocket"
    method = "POST" if is_socket else str(connection.scope["method"])  # a socket does what a POST does
    if method in SAFE_METHODS:
        return
    settings, headers = context.settings, connection.headers
    hosts = settings.allowed_hosts if is_socket else None  # of other requests the host is checked before
    policy = PagePolicy(hosts, settings.cors_origins, is_open=True)
    path, host = str(connection.scope["path"]), headers.get("host")
    match policy.refusal(PageRequest(method, path, host, headers.get("origin"), headers.get("sec-fetch-site"))):
        case "misdirected":
            raise Misdirected("This server is not the host of the Host header; see `server.allowed_hosts`.")
        case "cross_site":
            raise CrossSite("A web page of another origin may not do this; see `server.cors_origins`.")


def _token(header: str) -> str:
    """Return the key in an Authorization header; empty where there is none."""
    scheme, _, rest = header[:MAX_HEADER].partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip()
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(rest.strip(), validate=True).decode().partition(":")[2]
    except (binascii.Error, ValueError):
        return ""
