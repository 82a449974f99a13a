"""Who makes a request of a foreign protocol: its clients know Basic credentials; the password is an API key."""

import base64
import binascii

from starlette.requests import HTTPConnection

from lego_serve.gateway.context import Context
from lego_serve.gateway.errors import Unauthorized
from lego_serve.gateway.settings import Caller

MAX_HEADER = 4096


def foreign_caller(context: Context, connection: HTTPConnection) -> Caller:
    """Return who calls; an empty header is none.  Raises Unauthorized."""
    settings = context.settings
    if not settings.keys:
        return Caller()
    caller = settings.caller(_token(connection.headers.get("authorization", "")))
    if caller is None:
        raise Unauthorized("An API key is needed: as a bearer token, or as the password of Basic credentials.")
    connection.state.tenant = caller.tenant  # whose the request's body is
    return caller


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
