"""Errors in ComfyUI's shape and words."""

from fastapi.responses import JSONResponse, Response

from lego_serve.compat.requests import COMFYUI_WORDS
from lego_serve.errors import LegoError, RequestError
from lego_serve.gateway.compat.preparation import in_words
from lego_serve.gateway.errors import error_response


def render(error: LegoError) -> Response:
    """Return the answer to an error; what is wrong with a prompt's nodes is told by the translator."""
    told = in_words(error, COMFYUI_WORDS) if isinstance(error, RequestError) else error
    headers = {name: value for name, value in error_response(told).headers.items() if not name.startswith("content-")}
    if told.status == 401:
        headers["www-authenticate"] = 'Basic realm="lego_serve"'
    extra = {} if told.param is None else {"input_name": told.param}
    body = {"type": told.code, "message": told.message, "details": "", "extra_info": extra}
    return JSONResponse({"error": body, "node_errors": {}}, told.status, headers)
