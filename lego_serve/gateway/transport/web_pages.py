"""ASGI middleware for what browsers may do: hosts, origins and CORS."""

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from lego_serve.core.web_pages import PagePolicy, PageRequest, host_name
from lego_serve.errors import RequestError
from lego_serve.gateway.errors import CrossSite, Misdirected, error_response, refusal

METHODS = ("GET", "HEAD", "POST", "DELETE")
EXPOSED = (
    "x-request-id",
    "retry-after",
    "retry-after-ms",
    "x-should-retry",
    "openai-processing-ms",
    "ratelimit",
    "ratelimit-policy",
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
)


class PageGuard:
    """Refuses requests for other hosts, and what web pages of other origins may not do."""

    def __init__(self, app: ASGIApp, policy: PagePolicy) -> None:
        self._app, self._policy = app, policy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        error = self._refusal(scope) if scope["type"] == "http" else None
        await (self._app if error is None else refusal(scope, error))(scope, receive, send)

    def _refusal(self, scope: Scope) -> RequestError | None:
        headers = dict(reversed(scope["headers"]))  # the first of a name counts
        host, origin, site = (_text(headers.get(name)) for name in (b"host", b"origin", b"sec-fetch-site"))
        if host and host_name(host) is None:
            return RequestError("The Host header is not a host and a port.", code="invalid_host")
        if _is_of_this_machine(scope):
            return None
        asked = PageRequest(scope["method"], scope["path"], host, origin, site)
        match self._policy.refusal(asked):
            case "misdirected":
                return Misdirected("This server is not the host of the Host header; see `server.allowed_hosts`.")
            case "cross_site":
                return CrossSite("A web page of another origin may not do this; see `server.cors_origins`.")
        return None


class Cors(CORSMiddleware):
    """Lets web pages of the configured origins use the server; others read nothing, and get our error."""

    def __init__(self, app: ASGIApp, origins: tuple[str, ...]) -> None:
        super().__init__(app, origins, METHODS, ("*",), expose_headers=EXPOSED, allow_private_network=True)

    def preflight_response(self, request_headers: Headers) -> Response:
        """Answer whether a page may send what it is about to send."""
        answer = super().preflight_response(request_headers)
        if answer.status_code < 400:
            return answer
        refused = error_response(CrossSite("A web page of this origin may not send this; see `server.cors_origins`."))
        refused.headers["vary"] = answer.headers["vary"]
        return refused


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")


def _is_of_this_machine(scope: Scope) -> bool:
    """Whether a request came by a Unix socket, from another gateway: no browser reaches one."""
    server = scope.get("server")
    return server is not None and server[1] is None
