"""Errors in the shape that OpenAI's clients expect.

An answer repeats no value of the request and no message of a library.
"""

import json
import logging
import math
import re

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match
from starlette.types import Scope

from lego_serve.errors import (
    CapacityError,
    DeadlineExceeded,
    JobCancelled,
    LegoError,
    RequestError,
    StoreUnavailable,
)
from lego_serve.gateway.requests.complaints import complaint_about

log = logging.getLogger("lego_serve.gateway")


class Unauthorized(RequestError):
    """The request has no key, or an unknown one."""

    status = 401
    code = "invalid_api_key"
    kind = "authentication_error"


class Forbidden(RequestError):
    """The key may not do this."""

    status = 403
    code = "insufficient_scope"
    kind = "permission_error"


class Conflict(RequestError):
    """The request does not fit what is stored already, until something is removed."""

    status = 409
    code = "conflict"


class TooLarge(RequestError):
    """The body is larger than the limit."""

    status = 413
    code = "body_too_large"


class WrongMediaType(RequestError):
    """The body is of a type this route does not read."""

    status = 415
    code = "unsupported_media_type"


class Misdirected(RequestError):
    """The request names a host that this server is not."""

    status = 421
    code = "misdirected_request"


class CrossSite(RequestError):
    """A web page of another origin may not do this."""

    status = 403
    code = "cross_site"
    kind = "permission_error"


class ServerStopping(LegoError):
    """The server is stopping; another one, or the next, will do."""

    status = 503
    code = "server_stopping"
    retryable = True
    retry_after_s = 5.0

    def __init__(self, message: str = "The server is stopping; try again shortly.") -> None:
        super().__init__(message)


class ServerStarting(LegoError):
    """The models are not there yet."""

    status = 503
    code = "server_starting"
    retryable = True
    retry_after_s = 5.0

    def __init__(self, message: str = "The server is starting; try again shortly.") -> None:
        super().__init__(message)


class JobsDisabled(LegoError):
    """This server keeps no durable jobs."""

    status = 503
    code = "jobs_disabled"

    def __init__(
        self, message: str = "This server keeps no durable jobs (`jobs.store: none`); send the request as it is."
    ) -> None:
        super().__init__(message)


ROUTE_ERRORS = {
    404: ("There is no such route.", "route_not_found"),
    405: ("This route does not take this method.", "method_not_allowed"),
}
ROUTE_METHODS = ("DELETE", "GET", "PATCH", "POST", "PUT")
ANSWER_HEADERS = "answer_headers"  # in a request's state: what its answer, or the error, says besides
GIVE_BACK = "give_back"  # in a request's state: what undoes its charge, once, where it is refused after all
REFUSED_AS, CUT_SHORT_AS, ENDED_AS = "refused_as", "cut_short_as", "ended_as"  # in a request's state: an error's code
CUT_SHORT_STATUS = "cut_short_status"  # the same, its status
CLIENT_LEFT = 499  # the status that nginx logs for it; no client reads it
ORDINARY_ENDS = (CapacityError, DeadlineExceeded, JobCancelled, JobsDisabled, ServerStopping, StoreUnavailable)
CHARSET = re.compile(r"(?:^|[;\s])charset\*?\s*=\s*[\"']?([^\"';\s]*)", re.I)


def error_response(error: LegoError) -> Response:
    """Return the HTTP answer to an error."""
    headers = {} if error.retryable else {"x-should-retry": "false"}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
        headers["retry-after-ms"] = str(max(1, math.ceil(error.retry_after_s * 1000)))  # which OpenAI's SDKs prefer
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return Response(json.dumps(error_body(error)), error.status, headers, "application/json")


def refusal(scope: Scope, error: LegoError) -> Response:
    """Return the answer to a request that is refused before its route is asked, and note why for the metrics."""
    scope.setdefault("state", {})[REFUSED_AS] = error.code
    return error_response(error)


def error_body(error: LegoError) -> dict[str, dict[str, str | None]]:
    """Return an error as OpenAI writes it."""
    return {"error": {"message": error.message, "type": error.kind, "param": error.param, "code": error.code}}


def require_type(request: Request, expected: str) -> None:
    """Raise WrongMediaType for a body of another type, or one that says it is in another charset than UTF-8."""
    kind, _, parameters = request.headers.get("content-type", "").partition(";")
    if kind.strip().lower() != expected:
        raise WrongMediaType(f"The body must be of type {expected}.")
    charset = CHARSET.search(parameters)
    if charset is not None and charset[1].lower() not in ("utf-8", "utf8"):
        raise WrongMediaType("The body must be in UTF-8.")


def log_error(error: LegoError) -> None:
    """Log an error that ended a request: one line for an ordinary end, a traceback where the server failed."""
    if isinstance(error, ORDINARY_ENDS):
        log.info("request ended: %s", error.code)
    elif error.status >= 500:
        log.error("request failed: %s", error.code, exc_info=error)


def allowed_methods(request: Request) -> list[str]:
    """Return the methods that a request's path takes; the router tells those of its first route only."""
    scope = {"type": "http", "path": request.scope["path"], "root_path": "", "headers": []}
    methods = {
        method
        for method in ROUTE_METHODS
        if any(route.matches(scope | {"method": method})[0] is Match.FULL for route in request.app.routes)
    }
    return sorted(methods | ({"HEAD"} if "GET" in methods else set()))


async def give_back(request: Request) -> None:
    """Undo what a request was charged, if it was."""
    undo = request.scope.get("state", {}).pop(GIVE_BACK, None)
    if undo is not None:
        await undo()


async def settle(request: Request, *, is_replayed: bool) -> None:
    """Keep what the request of a durable job was charged, whatever becomes of the job now that it is accepted.

    One whose key stands for a job that another request brought meanwhile is a repeat, which uses nothing.
    """
    if is_replayed:
        await give_back(request)
    else:
        request.scope.get("state", {}).pop(GIVE_BACK, None)


async def give_back_if_refused(request: Request, error: LegoError) -> None:
    """Have a request that an error refuses use nothing of its tenant's quotas.

    What ran until its caller or an operator cancelled it, until its deadline, or until a node failed, was work.
    """
    if error.status not in (JobCancelled.status, DeadlineExceeded.status, LegoError.status):
        await give_back(request)


def add_error_handlers(app: FastAPI) -> None:
    """Make an application answer every error in OpenAI's shape."""

    async def answer_lego_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, LegoError)
        log_error(error)
        await give_back_if_refused(request, error)
        request.scope.setdefault("state", {})[ENDED_AS] = error.code
        return error_response(error)

    async def answer_parameter_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]  # of the path or the query, which its place begins with
        return error_response(complaint_about(str(first["type"]), first["loc"][1:], first.get("ctx", {})))

    async def answer_http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        message, code = ROUTE_ERRORS.get(error.status_code, ("The request cannot be read.", "bad_request"))
        known = RequestError(message, code=code)
        known.status = error.status_code
        answer = error_response(known)
        request.scope.setdefault("state", {})[ENDED_AS] = code
        if error.status_code == 405:
            answer.headers["allow"] = ", ".join(allowed_methods(request))
        return answer

    async def log_departure(request: Request, error: Exception) -> Response:
        code = request.scope.get("state", {}).get(CUT_SHORT_AS)
        log.info("request ended: %s", code) if code else log.info(
            "the client left before its request had come in whole"
        )
        return Response(status_code=CLIENT_LEFT)

    app.add_exception_handler(LegoError, answer_lego_error)
    app.add_exception_handler(RequestValidationError, answer_parameter_error)
    app.add_exception_handler(HTTPException, answer_http_error)
    app.add_exception_handler(ClientDisconnect, log_departure)
