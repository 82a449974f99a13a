"""Decides whether an answer holds links in place of images, and what they begin with."""

from fastapi import Request

from lego_serve.errors import RequestError, UnsupportedParameter
from lego_serve.gateway.context import Context
from lego_serve.gateway.links.public_url import base_url
from lego_serve.gateway.requests.schemas import ImageRequest


def requested_links(context: Context, request: Request, body: ImageRequest) -> str | None:
    """Return what the links of an answer begin with; None where it holds the images themselves.

    Raises RequestError where links are wanted and cannot be had.
    """
    if body.stream:
        if body.response_format == "url":
            message = "Events hold images, not links: leave `stream` out, or ask for `b64_json`."
            raise RequestError(message, param="response_format")
        return None
    start = links_start(context, request, body.response_format)
    if start is not None and context.kept_images is None:
        raise UnsupportedParameter("This server keeps no images; ask for `b64_json`.", param="response_format")
    return start


def links_start(context: Context, request: Request, response_format: str | None) -> str | None:
    """Return what links begin with; None where a format, or the server's where none is named, is the images.

    Raises UnsupportedParameter where clients cannot be told an address.
    """
    if (response_format or context.settings.default_response_format) != "url":
        return None
    start = base_url(context.settings, request)
    if not start:
        message = "Links need `server.public_url` in the server's configuration; ask for `b64_json`."
        raise UnsupportedParameter(message, param="response_format")
    return start
