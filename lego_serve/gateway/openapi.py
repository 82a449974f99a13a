"""Writes the OpenAPI document: every body, every status a route can answer with, and one form for all errors."""

import json
from collections.abc import Sequence
from functools import cache
from typing import Any, TypeAlias

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

Answers: TypeAlias = dict[int | str, dict[str, Any]]
REFERENCE = "#/components/schemas/{model}"
FASTAPIS_OWN = "Validation Error"  # the description of an answer that it documents and that nothing here gives
FASTAPIS_SCHEMAS = ("HTTPValidationError", "ValidationError")  # of that answer
METHODS = ("get", "post", "put", "patch", "delete")
MEANINGS = {
    400: "The request cannot succeed as it is; `param` names the field.",
    401: "The API key is missing or unknown.",
    403: "The key, or the web page that asks, may not do this.",
    404: "There is no such model, job, template, adapter, ControlNet or replica.",
    408: "The request did not come in whole in time.",
    409: "It does not fit what is stored, or was cancelled.",
    413: "The body, or a part of it, is larger than the limit that the message says.",
    414: "The target is longer than the limit.",
    415: "The body is of a type that this route does not read, or coded.",
    422: "The `Idempotency-Key` was used for another request, or this one makes the server fail.",
    421: "The server does not answer for this host name.",
    429: "There is no capacity now; try again after `Retry-After` seconds.",
    431: "The head of the request is larger than the limit.",
    500: "The server failed.",
    501: "The body comes in a transfer encoding that the server does not read.",
    503: "Something that is needed cannot be reached now, or the server is stopping; try again.",
    504: "The deadline passed before the answer was ready.",
    505: "The request is of another version of HTTP than 1.0 and 1.1.",
}
# What any request can get, whichever route it is for.
ANYWHERE = (400, 403, 408, 413, 414, 415, 421, 429, 431, 500, 501, 503, 505)
JOB_ERRORS = (404, 409, 422, 504)  # what running a job can end with
ERROR_SCHEMA = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string", "description": "What is wrong and what to do, for people."},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"], "description": "The field it is about."},
                "code": {"type": ["string", "null"], "description": "What is wrong, for programs."},
            },
        }
    },
}


class DescribedApp(FastAPI):
    """An application that writes its OpenAPI document in our own way; ``needs_key`` says whether it has keys."""

    needs_key: bool = True

    def openapi(self) -> dict[str, Any]:
        """Return the document, written once."""
        if self.openapi_schema is None:
            document = get_openapi(title=self.title, version=self.version, routes=self.routes)
            _complete(document, self.needs_key)
            self.openapi_schema = document
        return self.openapi_schema


def errors(*statuses: int) -> Answers:
    """Return the errors that a route can answer with, besides those that any request can get."""
    return {status: _error(status) for status in statuses}


def answer(status: int, description: str, media_type: str = "application/json") -> Answers:
    """Return one more answer of a route."""
    return {status: {"description": description, "content": {media_type: {}}}}


def json_answer(status: int, description: str, model: type[BaseModel]) -> Answers:
    """Return an answer of a route whose JSON is this model's."""
    return {status: {"description": description, "content": {"application/json": {"schema": _schema(model)}}}}


def json_body(model: type[BaseModel], *, required: bool = True) -> dict[str, Any]:
    """Return the description of a route's JSON body."""
    return {"requestBody": {"required": required, "content": {"application/json": {"schema": _schema(model)}}}}


def form_body(model: type[BaseModel], files: Sequence[str], required: Sequence[str]) -> dict[str, Any]:
    """Return the description of a route's form: its text fields, its files, and which of all must be given."""
    schema = _schema(model)
    schema["properties"] |= {name: {"type": "string", "format": "binary"} for name in files}
    schema["required"] = list(required)
    if not required:
        del schema["required"]
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


def _schema(model: type[BaseModel]) -> dict[str, Any]:
    """Return a model's schema, to be changed; its parts are under ``$defs`` until the document is completed."""
    schema: dict[str, Any] = json.loads(_schema_text(model))
    return schema


@cache
def _schema_text(model: type[BaseModel]) -> str:
    """Return a model's schema as JSON, made once for all applications of a process."""
    return json.dumps(model.model_json_schema(ref_template=REFERENCE))


def _error(status: int) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "description": MEANINGS[status],
        "content": {"application/json": {"schema": {"$ref": REFERENCE.format(model="Error")}}},
    }
    if status in (429, 503):
        answer["headers"] = {"retry-after": {"description": "Seconds.", "schema": {"type": "string"}}}
    return answer


def _complete(document: dict[str, Any], needs_key: bool) -> None:
    """Give every operation its errors and security, and every reference a place to lead to."""
    components = document.setdefault("components", {})
    own = {name: schema for name, schema in components.get("schemas", {}).items() if name not in FASTAPIS_SCHEMAS}
    schemas: dict[str, Any] = {"Error": ERROR_SCHEMA} | own
    components["schemas"] = schemas
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path, item in document["paths"].items():
        for method in METHODS:
            operation = item.get(method)
            if operation is None:
                continue
            answers = operation["responses"]
            if answers.get("422", {}).get("description") == FASTAPIS_OWN:
                del answers["422"]
            for status in ANYWHERE:
                answers.setdefault(str(status), _error(status))
            if path.startswith("/v1/"):
                answers.setdefault("401", _error(401))
                operation["security"] = [{"key": []}] if needs_key else [{}, {"key": []}]
            operation["responses"] = dict(sorted(answers.items()))
            for part in (operation.get("requestBody", {}), *answers.values()):
                for content in part.get("content", {}).values():
                    schemas.update(content.get("schema", {}).pop("$defs", {}))
