"""The address that links in answers begin with."""

from fastapi import Request

from lego_serve.gateway.settings import GatewaySettings

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


def base_url(settings: GatewaySettings, request: Request) -> str:
    """Return what the paths of links are put after: the configured address, or on loopback the one that was asked.

    Elsewhere nothing: what a client calls the server by says nothing of what others can, and links are paths then.
    """
    if settings.public_url is not None:
        return settings.public_url
    host = request.headers.get("host", "")
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    return f"{request.url.scheme}://{host}" if name.lower() in LOOPBACK else ""
