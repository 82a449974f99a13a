"""The OpenAPI document: what it says is true of every answer, and all it refers to is in it.

Some hundred requests are generated each time, 2,000 with the long tests; ``LEGO_FUZZ_CASES`` is another number for
these, 10,000 in ``make long`` and 20,000 in ``make fuzz``.
"""

import contextlib
import hashlib
import os
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import checks as general
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi import checks as openapi

from lego_serve.gateway.app import create_app
from lego_serve.gateway.settings import ApiKey, GatewaySettings
from lego_serve.metrics import Metrics
from tests.support.gateway.client import Live, error_of, file_of
from tests.support.gateway.durable import storage_in
from tests.support.gateway.runner import FakeRunner
from tests.support.gateway.wire import wait_for

# With an Idempotency-Key, or answering what a job ended with, which may have made the server fail.
UNPROCESSABLE = {
    ("post", "/v1/images/generations"),
    ("post", "/v1/images/edits"),
    ("post", "/v1/jobs"),
    ("get", "/v1/jobs/{job_id}/result"),
    ("post", "/v1/templates/{template_id}/warm"),
}
FEW, MANY = 500, int(os.environ.get("LEGO_FUZZ_CASES", "2000"))  # in both modes together
OPERATIONS = 50  # at least, those whose path names something twice
ANSWER_S = 30.0  # a request that takes longer hangs
CHECKS = [
    general.not_a_server_error,
    openapi.status_code_conformance,
    openapi.content_type_conformance,
    openapi.response_schema_conformance,
    openapi.response_headers_conformance,
]


def references(value: Any) -> Iterator[str]:
    """Every reference within a part of a document."""
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for part in value.values():
            yield from references(part)
    elif isinstance(value, list):
        for part in value:
            yield from references(part)


async def test_every_reference_leads_somewhere(client) -> None:
    """Each is found from the root of the document on."""
    document = (await client.get("/openapi.json")).json()
    found = set(references(document))
    assert {"#/components/schemas/LoraUse", "#/components/schemas/Error"} <= found
    for reference in found:
        part = document
        assert reference.startswith("#/")
        for name in reference[2:].split("/"):
            part = part[name]


async def test_every_route_says_what_it_takes_and_what_can_go_wrong(client) -> None:
    """Bodies of all routes that read one; errors in one form; keys; nothing that is never answered."""
    document = (await client.get("/openapi.json")).json()
    operations = {(m, path): said for path, item in document["paths"].items() for m, said in item.items()}
    with_body = {path for (method, path), said in operations.items() if "requestBody" in said}
    assert with_body == {
        "/v1/images/generations",
        "/v1/images/edits",
        "/v1/jobs",
        "/v1/templates",
        "/v1/templates/{template_id}/warm",
        "/v1/admin/adapters",
        "/v1/admin/nodes/{node}/replicas",
    }
    for (method, path), said in operations.items():
        answers = said["responses"]
        assert ("422" in answers) == ((method, path) in UNPROCESSABLE)
        assert {"400", "408", "413", "414", "415", "421", "429", "431", "501", "503", "505"} <= set(answers)
        assert ("401" in answers) == ("security" in said) == path.startswith("/v1/")
        assert "404" in answers or "{" not in path
        if path.startswith("/v1/"):
            forms = {answers[status]["content"]["application/json"]["schema"]["$ref"] for status in answers
                     if status >= "400" and status != "416"}  # fmt: skip
            assert forms == {"#/components/schemas/Error"}
    assert set(operations["get", "/metrics"]["responses"]["200"]["content"]) == {"text/plain"}
    warm = operations["post", "/v1/templates"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert warm["properties"]["warm"]["anyOf"][1] == {"type": "integer", "minimum": 1, "maximum": 200}
    assert warm["required"] == ["image"]


async def test_null_is_taken_for_every_optional_field(client, runner) -> None:
    """It means not given, in entries of lists too: whatever the document says may be left out may be null."""
    document = (await client.get("/openapi.json")).json()
    schemas = document["components"]["schemas"]

    def nulls(schema: dict[str, Any]) -> dict[str, None]:
        required = schema.get("required", ())
        return {name: None for name in schema["properties"] if name not in required}

    def body_of(path: str) -> dict[str, Any]:
        return document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]

    fields = nulls(body_of("/v1/images/generations"))
    assert {"output_format", "n", "stream", "lora", "style"} <= set(fields)
    for name in fields:
        answer = await client.post("/v1/images/generations", json={"prompt": "a", name: None})
        assert (name, answer.status_code) == (name, 200)
    assert (await client.post("/v1/images/generations", json={"prompt": "a"} | fields)).status_code == 200
    entry = {"name": "a"} | nulls(schemas["LoraUse"])
    answer = await client.post("/v1/images/generations", json={"prompt": "a", "lora": [entry]})
    assert answer.status_code == 200, answer.text
    assert runner.jobs[-1].inputs["lora"][0].scale == 1.0
    net = {"name": "edges", "image": "?"} | nulls(schemas["ControlNetUse"])
    answer = await client.post("/v1/images/generations", json={"prompt": "a", "controlnet": [net]})
    assert error_of(answer) == (400, "invalid_image", "controlnet[0].image")  # the only thing wrong with it
    adapter = {"id": "x", "path": "y"} | nulls(body_of("/v1/admin/adapters"))
    assert (await client.post("/v1/admin/adapters", json=adapter)).status_code == 200
    warm = nulls(body_of("/v1/templates/{template_id}/warm"))
    assert error_of(await client.post("/v1/templates/no/warm", json=warm))[0] == 404


@pytest.fixture
def keyed(runner: FakeRunner, settings: GatewaySettings, tmp_path: Path) -> FastAPI:
    """The application with durable jobs, a key that may do everything, and one that may not."""
    keys = [ApiKey(hashlib.sha256(name.encode()).hexdigest(), "a", name == "admin") for name in ("admin", "user")]
    limits = replace(settings, keys=tuple(keys), max_pending_jobs=256)
    return create_app(runner, runner, limits, Metrics(), storage=storage_in(tmp_path / "jobs"))


def metrics_of(url: str) -> list[str]:
    """The lines of the page of metrics."""
    admin = {"authorization": "Bearer admin"}
    return httpx2.get(f"{url}/metrics", headers=admin, timeout=ANSWER_S).text.splitlines()


def template_in(url: str) -> str:
    """The id of a template that is registered now."""
    headers = {"authorization": "Bearer admin"}
    answer = httpx2.post(f"{url}/v1/templates", files={"image": file_of()}, headers=headers, timeout=ANSWER_S)
    template_id: str = answer.json()["id"]
    return template_id


def job_in(url: str) -> str:
    """The id of a job that has ended."""
    headers = {"authorization": "Bearer user", "prefer": "respond-async, wait=10"}
    answer = httpx2.post(f"{url}/v1/images/generations", json={"prompt": "a"}, headers=headers, timeout=ANSWER_S)
    assert answer.status_code == 200, answer.text
    job_id: str = answer.json()["id"]
    return job_id


def cases_of(operation: Any, mode: GenerationMode, known: dict[str, str]) -> st.SearchStrategy[schemathesis.Case]:
    """Requests for an operation, with a key of any kind, and for what exists where its path names something."""
    parameters = {name: value for name, value in known.items() if f"{{{name}}}" in operation.path}
    made = operation.as_strategy(mode, path_parameters=parameters or None)

    def with_key(case: schemathesis.Case, key: str | None) -> schemathesis.Case:
        case.headers.pop("authorization", None)
        if key is not None:
            case.headers["authorization"] = f"Bearer {key}"
        return case

    return st.builds(with_key, made, st.sampled_from(["admin", "user", "admin", "user", "admin", "nobody", None]))


@pytest.mark.parametrize("cases", [FEW, pytest.param(MANY, marks=pytest.mark.long)])
@pytest.mark.parametrize("mode", GenerationMode)
def test_every_answer_is_as_the_document_says(keyed, runner, mode, cases) -> None:
    """Generated requests, sound and not, get no 5xx, no status that is not listed and no body of another form.

    Each is answered, and nothing is left of it in the gateway.
    """
    answered: Counter[int] = Counter()
    share = -(-cases // 2 // OPERATIONS)
    with Live(keyed) as url:
        schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
        for found in schema.get_all_operations():
            operation = found.ok()
            for known in ({}, {"template_id": template_in(url), "name": "lego-tiny", "job_id": job_in(url)}):
                if known and "{" not in operation.path:
                    continue

                @given(case=cases_of(operation, mode, known))
                @settings(max_examples=share, deadline=None, suppress_health_check=list(HealthCheck))
                def send(case: schemathesis.Case) -> None:
                    answered[case.call_and_validate(checks=CHECKS, timeout=ANSWER_S).status_code] += 1

                with contextlib.suppress(Unsatisfiable):  # what has nothing to get wrong
                    send()
        assert wait_for(lambda: "lego_serve_requests_in_flight 0.0" in metrics_of(url))
    sys.stdout.write(f"{sum(answered.values())} requests: {dict(sorted(answered.items()))}\n")
    assert sum(answered.values()) >= cases // 2
    assert {200, 400, 401, 403, 404} <= set(answered)
    assert runner.jobs or mode is GenerationMode.NEGATIVE
    assert runner.in_flight == 0
