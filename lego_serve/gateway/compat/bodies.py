"""Reads JSON bodies of foreign protocols: any fields, whatever type the body is said to be of, within our bounds."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Request
from pydantic_core import from_json

from lego_serve.errors import RequestError
from lego_serve.gateway.requests.body_bytes import BodyBytes, counted, receive_body
from lego_serve.gateway.requests.json_body import INLINE_BYTES, bounded


@asynccontextmanager
async def held_json(request: Request) -> AsyncIterator[object]:
    """Yield the value of a JSON body, None for one of no bytes; its bytes count as long as the block lasts.

    Raises TooLarge, CapacityError or RequestError.
    """
    buffer: BodyBytes = request.app.state.body_bytes
    async with counted(request, buffer) as counting:
        raw = await receive_body(counting)
        if not raw:
            yield None
            return
        if len(raw) <= INLINE_BYTES:
            body = _parsed(raw)
        else:
            async with buffer.parsing:
                body = await asyncio.to_thread(_parsed, raw)
        raw.clear()
        yield body


async def read_json(request: Request) -> object:
    """Return what ``held_json`` yields, of a body that is done with once it is read."""
    async with held_json(request) as body:
        return body


def _parsed(raw: bytearray) -> object:
    bounded(raw)
    try:
        body: object = from_json(raw, allow_inf_nan=False)
    except ValueError:
        raise RequestError("The body is not valid JSON.", code="invalid_json") from None
    if not _is_finite(body):
        raise RequestError("The body has a number that is too large.", code="out_of_range")
    return body


def _is_finite(value: object) -> bool:
    """Whether no number in a value is beyond what JSON can say again, such as 1e999."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(map(_is_finite, value.values()))
    return not isinstance(value, list) or all(map(_is_finite, value))
