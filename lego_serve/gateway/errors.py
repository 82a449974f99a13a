"""Errors as OpenAI's clients expect them; no value of the request and no library's words come back."""

import json
import logging
import re
from collections.abc import Mapping, Sequence

from fastapi import FastAPI, Request
from fastapi.responses import Response
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from lego_serve.errors import (
    CapacityError,
    DeadlineExceeded,
    JobCancelled,
    LegoError,
    RequestError,
    UnsupportedParameter,
)
from lego_serve.gateway.requests.schemas import REFUSED_WORDS

log = logging.getLogger("lego_serve.gateway")


class Unauthorized(RequestError):
    """No key, or one nobody holds."""

    status = 401
    code = "invalid_api_key"
    kind = "authentication_error"


class Forbidden(RequestError):
    """A key that may not do this."""

    status = 403
    code = "insufficient_scope"
    kind = "permission_error"


class Conflict(RequestError):
    """What is asked for does not go with what is there; it will not until something is removed."""

    status = 409
    code = "conflict"


class TooLarge(RequestError):
    """A body above the limit."""

    status = 413
    code = "body_too_large"


class WrongMediaType(RequestError):
    """A body of a type this route does not read."""

    status = 415
    code = "unsupported_media_type"


ROUTE_ERRORS = {
    404: ("There is no such route.", "route_not_found"),
    405: ("This route does not take this method.", "method_not_allowed"),
}
CLIENT_LEFT = 499  # nobody reads it; servers log it so since nginx
OUTCOMES = (CapacityError, DeadlineExceeded, JobCancelled)
TYPE_WORDS = {
    "int": "an integer",
    "float": "a number",
    "string": "a string",
    "bool": "true or false",
    "literal": "one of its known values",
    "tuple": "a list",
    "model": "an object",
}


def error_response(error: LegoError) -> Response:
    """The HTTP answer to an error."""
    headers = {} if error.retryable else {"x-should-retry": "false"}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, round(error.retry_after_s)))
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return Response(json.dumps(error_body(error)), error.status, headers, "application/json")


def error_body(error: LegoError) -> dict[str, dict[str, str | None]]:
    """An error as OpenAI writes it."""
    return {"error": {"message": error.message, "type": error.kind, "param": error.param, "code": error.code}}


def shown_name(name: str) -> str | None:
    """A field's name as the caller wrote it, where it is a plain word; what else it may be is not sent back."""
    return name if name.isascii() and name.replace("_", "").isalnum() and len(name) <= 64 else None


def validation_error(error: ValidationError) -> RequestError:
    """A pydantic complaint in our own words, naming the field."""
    first = error.errors(include_input=False, include_url=False, include_context=True)[0]
    kind = str(first["type"])
    if not first["loc"]:
        return RequestError("The body is not a valid JSON object.", code="invalid_json")
    name = place_of(first["loc"])
    if kind.startswith("json_"):  # a text field of a form
        return RequestError(f"`{name}` must be JSON.", param=name, code="invalid_json")
    if kind == "extra_forbidden":
        known = shown_name(str(first["loc"][-1]))
        place = known and place_of((*first["loc"][:-1], known))
        what = f"`{place}` is no field of this request." if place else "The request has a field that it cannot have."
        return UnsupportedParameter(what, param=place)
    if kind == "missing":
        return RequestError(f"`{name}` is required.", param=name, code="missing")
    if kind == "finite_number":
        return RequestError(f"`{name}` must be a finite number.", param=name)
    bounds: Mapping[str, object] = first.get("ctx", {})
    for word, phrase in (("ge", "at least"), ("gt", "more than"), ("le", "at most"), ("lt", "less than")):
        if word in bounds:
            return RequestError(f"`{name}` must be {phrase} {bounds[word]}.", param=name, code="out_of_range")
    if kind == "string_too_short":
        return RequestError(f"`{name}` must not be empty.", param=name)
    if kind == "string_too_long":
        return RequestError(f"`{name}` is longer than {bounds.get('max_length')} characters.", param=name)
    if kind == "literal_error":
        known_words = re.findall(r"'([^']*)'", str(bounds.get("expected")))
        taken = [word for word in known_words if word not in REFUSED_WORDS.get(name, ())]
        return RequestError(f"`{name}` must be {' or '.join(taken)}.", param=name)
    words = next((text for prefix, text in TYPE_WORDS.items() if kind.startswith(prefix)), "of another form")
    return RequestError(f"`{name}` must be {words}.", param=name, code="invalid_type")


def place_of(parts: Sequence[int | str]) -> str:
    """A field within the body, as in `lora[0].scale`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).removeprefix(".")


def require_type(request: Request, expected: str) -> None:
    """Raise WrongMediaType for a body of another type."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != expected:
        raise WrongMediaType(f"The body must be of type {expected}.")


def note(error: LegoError) -> None:
    """Log an error that ended a request: with its traceback where it is ours, one line where it is an outcome."""
    if isinstance(error, OUTCOMES):
        log.info("request ended: %s", error.code)
    elif error.status >= 500:
        log.error("request failed: %s", error.code, exc_info=error)


def install(app: FastAPI) -> None:
    """Answer every error in OpenAI's shape."""

    async def on_lego(request: Request, error: Exception) -> Response:
        assert isinstance(error, LegoError)
        note(error)
        return error_response(error)

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        message, code = ROUTE_ERRORS.get(error.status_code, ("The request cannot be read.", "bad_request"))
        known = RequestError(message, code=code)
        known.status = error.status_code
        answer = error_response(known)
        if allowed := (error.headers or {}).get("Allow"):
            answer.headers["allow"] = allowed
        return answer

    async def on_departure(request: Request, error: Exception) -> Response:
        log.info("the client left before its request had come in whole")
        return Response(status_code=CLIENT_LEFT)

    app.add_exception_handler(LegoError, on_lego)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(ClientDisconnect, on_departure)
