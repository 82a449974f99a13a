"""JSON bodies: every field known, of its type, and given once.

The library that reads them keeps the last of two fields of one name, and others keep the first: what one part of a
system has looked at another might not do.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from lego_serve.errors import RequestError
from lego_serve.gateway.errors import place_of, require_type, shown_name, validation_error

Body = TypeVar("Body", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class _Twice:
    """What stands in place of an object that has a field twice."""

    name: str


async def read_body(request: Request, model: type[Body]) -> Body:
    """The JSON body of a request.  Raises WrongMediaType, or RequestError that names the field."""
    require_type(request, "application/json")
    raw = await request.body()
    try:
        body = model.model_validate_json(raw)
    except ValidationError as error:
        raise validation_error(error) from None
    refuse_repeated(raw)
    return body


def refuse_repeated(raw: bytes) -> None:
    """Raise RequestError for a JSON text in which a field is given twice, wherever it stands."""
    try:
        found = json.loads(raw.decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise RequestError("The body is not a valid JSON object.", code="invalid_json") from None
    if (place := _place(found, ())) is not None:
        shown = [part if isinstance(part, int) else shown_name(part) for part in place]
        known = [part for part in shown if part is not None]
        param = place_of(known) if len(known) == len(place) else None
        raise RequestError("A field is given twice.", param=param, code="duplicate_field")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any] | _Twice:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    names = [name for name, _ in pairs]
    return _Twice(next(name for index, name in enumerate(names) if name in names[:index]))


def _place(value: Any, at: Sequence[int | str]) -> Sequence[int | str] | None:
    """Where the first field that is given twice stands; None where there is none."""
    if isinstance(value, _Twice):
        return (*at, value.name)
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return next((place for key, part in parts if (place := _place(part, (*at, key))) is not None), None)
