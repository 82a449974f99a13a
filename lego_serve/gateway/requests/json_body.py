"""Reads JSON bodies: bounded before they are read; every field is known, of its type, and given once.

Of two fields of one name the library that reads bodies keeps the last and others keep the first: one part of a system
would act on a value that another part has not checked.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from lego_serve.core.json_text import Buffer, JsonLimitExceeded, outline, repeated_field
from lego_serve.errors import RequestError
from lego_serve.gateway.errors import TooLarge, require_type
from lego_serve.gateway.requests.body_bytes import BodyBytes, counted, receive_body
from lego_serve.gateway.requests.complaints import field_path, printable_name, validation_error

Body = TypeVar("Body", bound=BaseModel)
INLINE_BYTES = 32 * 1024  # what takes less than a thread does


async def read_body(request: Request, model: type[Body], *, empty: Body | None = None) -> Body:
    """Return the JSON body of a request, or ``empty`` for one of no bytes.

    Raises WrongMediaType, TooLarge, CapacityError, or RequestError that names the field.
    """
    async with held_body(request, model, empty=empty) as body:
        return body


@asynccontextmanager
async def held_body(request: Request, model: type[Body], *, empty: Body | None = None) -> AsyncIterator[Body]:
    """Yield what ``read_body`` returns; its bytes count as long as the block lasts, for they may be undecoded images.

    Raises as ``read_body`` does.
    """
    if empty is None:
        require_type(request, "application/json")
    buffer: BodyBytes = request.app.state.body_bytes
    async with counted(request, buffer) as counting:
        raw = await receive_body(counting)
        if empty is not None:
            if not raw:
                yield empty
                return
            require_type(request, "application/json")
        if len(raw) <= INLINE_BYTES:
            body = parse(raw, model)
        else:
            async with buffer.parsing:
                body = await asyncio.to_thread(parse, raw, model)
        raw.clear()  # what is held from now on is the parsed body
        yield body


def parse(raw: Buffer, model: type[Body]) -> Body:
    """Return the body in a JSON text.  Raises TooLarge, or RequestError that names the field."""
    text = bounded(raw)
    try:
        body = model.model_validate_json(raw)
    except ValidationError as error:
        raise validation_error(error) from None
    refuse_repeated(text)
    return body


def bounded(raw: Buffer, field: str | None = None) -> bytes:
    """Return the outline of a JSON text within the limits: of a body, or of a form's field.

    Raises TooLarge, or RequestError that says the limit.
    """
    try:
        return outline(raw)
    except JsonLimitExceeded as error:
        message = error.message if field is None else f"`{field}`: {error.message}"
        if error.too_large:
            raise TooLarge(message, param=field) from None
        raise RequestError(message, param=field, code="invalid_json") from None


def refuse_repeated(text: bytes, field: str | None = None) -> None:
    """Raise RequestError for an outline in which an object, at any depth, has a field twice."""
    try:
        path = repeated_field(text)
    except ValueError:
        what = "The body is not a valid JSON object." if field is None else f"`{field}` must be JSON."
        raise RequestError(what, param=field, code="invalid_json") from None
    if path is None:
        return
    full = path if field is None else (field, *path)
    printable = [part if isinstance(part, int) else printable_name(part) for part in full]
    shown = [part for part in printable if part is not None]
    param = field_path(shown) if len(shown) == len(full) else None
    raise RequestError("A field is given twice.", param=param, code="duplicate_field")
