"""Reads JSON bodies: every field is known, of its type, and given once.

Of two fields of one name the library that reads bodies keeps the last and others keep the first: one part of a system
would act on a value that another part has not checked.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from lego_serve.errors import RequestError
from lego_serve.gateway.errors import field_path, printable_name, require_type, validation_error

Body = TypeVar("Body", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class _RepeatedField:
    """Stands in place of an object that has a field twice."""

    name: str


async def read_body(request: Request, model: type[Body]) -> Body:
    """Return the JSON body of a request.  Raises WrongMediaType, or RequestError that names the field."""
    require_type(request, "application/json")
    raw = await request.body()
    try:
        body = model.model_validate_json(raw)
    except ValidationError as error:
        raise validation_error(error) from None
    refuse_repeated(raw)
    return body


def refuse_repeated(raw: bytes) -> None:
    """Raise RequestError for a JSON text in which an object, at any depth, has a field twice."""
    try:
        value = json.loads(raw.decode(), object_pairs_hook=_object_or_repeated)
    except (ValueError, RecursionError):
        raise RequestError("The body is not a valid JSON object.", code="invalid_json") from None
    path = _find_repeated(value, ())
    if path is None:
        return
    printable = [part if isinstance(part, int) else printable_name(part) for part in path]
    shown = [part for part in printable if part is not None]
    param = field_path(shown) if len(shown) == len(path) else None
    raise RequestError("A field is given twice.", param=param, code="duplicate_field")


def _object_or_repeated(pairs: list[tuple[str, Any]]) -> dict[str, Any] | _RepeatedField:
    fields = dict(pairs)
    if len(fields) == len(pairs):
        return fields
    names = [name for name, _ in pairs]
    return _RepeatedField(next(name for index, name in enumerate(names) if name in names[:index]))


def _find_repeated(value: Any, path: Sequence[int | str]) -> Sequence[int | str] | None:
    """Return the path of the first field that is given twice; None where there is none."""
    if isinstance(value, _RepeatedField):
        return (*path, value.name)
    parts: Any = ()
    if isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, list):
        parts = enumerate(value)
    for key, part in parts:
        repeated = _find_repeated(part, (*path, key))
        if repeated is not None:
            return repeated
    return None
