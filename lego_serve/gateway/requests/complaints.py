"""Says in our own words what is wrong with a field, and never repeats its value."""

import re
from collections.abc import Mapping, Sequence
from itertools import takewhile

from pydantic import ValidationError

from lego_serve.errors import RequestError, UnsupportedParameter
from lego_serve.gateway.requests.schemas import REFUSED_WORDS

FIELD_NAME = re.compile(r"(?=.{1,64}$)\w+(?:\[\w*\]){0,3}", re.ASCII)
BOUND_PHRASES = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
TYPE_WORDS = {
    "int": "an integer",
    "float": "a number",
    "string": "a string",
    "bool": "true or false",
    "literal": "one of its known values",
    "tuple": "a list",
    "model": "an object",
}


def printable_name(name: str) -> str | None:
    """Return a field's name as the caller wrote it if it is a plain word, or nested as in forms: `a[0][b]`.

    Anything else is not sent back.
    """
    return name if FIELD_NAME.fullmatch(name) else None


def validation_error(error: ValidationError) -> RequestError:
    """Return the first of pydantic's complaints in our own words, naming the field."""
    first = error.errors(include_input=False, include_url=False, include_context=True)[0]
    return complaint_about(str(first["type"]), first["loc"], first.get("ctx", {}))


def complaint_about(kind: str, path: Sequence[int | str], context: Mapping[str, object]) -> RequestError:
    """Return a complaint of pydantic's about the value at a path."""
    if not path:
        return RequestError("The body is not a valid JSON object.", code="invalid_json")
    if kind == "extra_forbidden":
        return _unknown_field(path)
    name = field_path(_printable_path(path))
    if kind.startswith("json_"):  # a text field of a form
        return RequestError(f"`{name}` must be JSON.", param=name, code="invalid_json")
    if kind == "missing":
        return RequestError(f"`{name}` is required.", param=name, code="missing")
    for bound, phrase in BOUND_PHRASES.items():
        if bound in context:
            return RequestError(f"`{name}` must be {phrase} {context[bound]}.", param=name, code="out_of_range")
    if kind == "too_long":
        return RequestError(f"`{name}` has more than {context['max_length']} entries.", param=name, code="too_many")
    if (rule := _value_rule(kind, name, context)) is not None:
        return RequestError(f"`{name}` {rule}.", param=name)
    words = next((text for prefix, text in TYPE_WORDS.items() if kind.startswith(prefix)), "of another form")
    return RequestError(f"`{name}` must be {words}.", param=name, code="invalid_type")


def _printable_path(path: Sequence[int | str]) -> list[int | str]:
    """Return a path as far as it may be sent back: names within a mapping are the caller's."""
    return list(takewhile(lambda part: isinstance(part, int) or printable_name(part) is not None, path))


def _unknown_field(path: Sequence[int | str]) -> UnsupportedParameter:
    """Return the complaint about a field that a request does not have, named where its name may be sent back."""
    name = printable_name(str(path[-1]))
    if name is None:
        return UnsupportedParameter("The request has a field that it cannot have.")
    param = field_path((*_printable_path(path[:-1]), name))
    return UnsupportedParameter(f"`{param}` is no field of this request.", param=param)


def _value_rule(kind: str, name: str, context: Mapping[str, object]) -> str | None:
    """Return the rule that a value of the right type breaks; None for other complaints."""
    match kind:
        case "finite_number":
            return "must be a finite number"
        case "string_too_short":
            return "must not be empty"
        case "string_too_long":
            return f"is longer than {context.get('max_length')} characters"
        case "literal_error" | "enum":
            known_words = re.findall(r"'([^']*)'", str(context.get("expected")))
            accepted = [word for word in known_words if word not in REFUSED_WORDS.get(name, ())]
            return f"must be {' or '.join(accepted)}"
    return None


def field_path(parts: Sequence[int | str]) -> str:
    """Return the path of a field within the body, as in `lora[0].scale`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).removeprefix(".")
