"""Errors in A1111's shape and words."""

from fastapi.responses import JSONResponse, Response

from lego_serve.compat.a1111.bodies import error_body
from lego_serve.compat.requests import A1111_WORDS
from lego_serve.errors import LegoError, RequestError
from lego_serve.gateway.compat.preparation import in_words
from lego_serve.gateway.errors import error_response


def render(error: LegoError) -> Response:
    """Return the answer to an error."""
    told = in_words(error, A1111_WORDS) if isinstance(error, RequestError) else error
    headers = {name: value for name, value in error_response(told).headers.items() if not name.startswith("content-")}
    if told.status == 401:
        headers["www-authenticate"] = 'Basic realm="lego_serve"'
    return JSONResponse(error_body(told.message), told.status, headers)
