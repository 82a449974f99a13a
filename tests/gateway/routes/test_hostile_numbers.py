"""Texts where a number or a token belongs, in every query and header that has one: refused or passed over, no 5xx."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import httpx2
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute

from lego_serve.gateway.app import create_app
from lego_serve.gateway.peers import HEADER, TOKEN_HEADER, Peers
from lego_serve.gateway.settings import GatewaySettings
from lego_serve.gateway.ui.events import Stream
from lego_serve.gateway.ui.part import Since
from lego_serve.metrics import Metrics
from tests.support.gateway.client import error_of
from tests.support.gateway.comfyui import memory_storage
from tests.support.gateway.refusals import check_refusal
from tests.support.ui.lively import LivelyRunner

CASES = {
    "thousands of digits": "9" * 5000,
    "thousands of digits below zero": "-" + "9" * 5000,
    "19 digits": "9" * 19,
    "an Arabic digit": "\u0663",
    "a superscript": "\u00b2",
    "1e999": "1e999",
    "nan": "nan",
    "-inf": "-inf",
    "1_0": "1_0",
    "a NUL": "\x00",
    "a blank": " ",
    "an accent": "\u00e9",
}
UNDECLARED = ("over_s", "sort", "q", "max_items", "cursor", "limit")  # that handlers read themselves
HEADERS = {
    "range": "bytes={}-{}",
    "prefer": "wait={}",
    "idempotency-key": "{}",
    "last-event-id": "gateway.{}",
    "if-none-match": "{}",
    "authorization": "Bearer {}",
    "host": "localhost:{}",
    "traceparent": "00-{}-{}-01",
    "x-forwarded-port": "{}",
    HEADER: "{}",
    TOKEN_HEADER: "{}",
}


@pytest.fixture
def app(settings: GatewaySettings, tmp_path: Path) -> FastAPI:
    """A gateway with all of its routes, and peers that it could ask."""
    settings, runner = replace(settings, compat=frozenset({"a1111", "comfyui"})), LivelyRunner(step_s=0.001)
    peers = Peers(tmp_path, tmp_path / "own.sock")
    return create_app(runner, runner, settings, Metrics(), peers, storage=memory_storage(tmp_path / "jobs"))


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of it while it runs."""
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client,
    ):
        yield client


def lists_of(app: FastAPI) -> dict[str, set[str]]:
    """The paths that are read without naming anything, with the parameters of each; not the endless stream."""
    routes = [route for route in app.routes if isinstance(route, APIRoute) and "GET" in (route.methods or ())]
    found = {route.path: {param.alias for param in route.dependant.query_params} for route in routes}
    return {path: names for path, names in found.items() if "{" not in path and not path.endswith("/events")}


@pytest.mark.parametrize("text", CASES.values(), ids=CASES.keys())
async def test_no_query_makes_an_error_of_the_server(client, app, text: str) -> None:
    """Whatever stands where a number belongs, on every route that reads a query."""
    lists = lists_of(app)
    assert {"cursor", "limit"} <= lists["/v1/admin/requests"]
    for path, names in lists.items():
        for name in names | set(UNDECLARED):
            answer = await client.get(path, params={name: text})
            assert answer.status_code < 500, (path, name, answer.text)


@pytest.mark.parametrize("text", CASES.values(), ids=CASES.keys())
async def test_no_header_makes_an_error_of_the_server(client, text: str) -> None:
    """Whatever stands where a number or a token belongs."""
    if "\x00" in text:
        pytest.skip("no header has a NUL in it")
    for name, pattern in HEADERS.items():
        value = pattern.replace("{}", text).encode()
        for path in ("/v1/models", "/v1/admin/requests", "/v1/admin/part", "/v1/jobs"):
            answer = await client.get(path, headers=[(name.encode(), value)])
            assert answer.status_code < 500, (path, name, answer.text)


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
async def test_a_token_beyond_ascii_is_no_gateways(client, encoding: str) -> None:
    """It is compared and refused, without a key and without a trace in the log."""
    headers = [(HEADER.encode(), b"1"), (TOKEN_HEADER.encode(), "\u00e9".encode(encoding))]
    answer = await client.get("/v1/admin/part", headers=headers)
    assert error_of(answer)[0] == 403
    check_refusal(answer)


@pytest.mark.parametrize("cursor", ["9" * 5000, "\u0663", "-1", "1_0", " 1"])
async def test_a_cursor_that_no_answer_gave_is_refused(client, cursor: str) -> None:
    """And not read as some place in the list."""
    answer = await client.get("/v1/admin/requests", params={"cursor": cursor})
    assert error_of(answer)[::2] == (400, "cursor")


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e999", "abc"])
async def test_an_age_that_is_no_number_is_refused(client, text: str) -> None:
    """Since no request is older than that, or younger."""
    assert error_of(await client.get("/v1/admin/requests", params={"over_s": text}))[::2] == (400, "over_s")


@pytest.mark.parametrize("text", CASES.values(), ids=CASES.keys())
def test_what_a_listener_or_a_peer_says_it_had_is_passed_over(text: str) -> None:
    """A version that is no number is none that is remembered, and a gateway is heard from its beginning."""

    watch = SimpleNamespace(recorder=SimpleNamespace(id="gateway"))
    stream = Stream(watch, None)  # type: ignore[arg-type]  # of which it reads the gateway's name alone
    assert stream._remembered(None, f"gateway.{text}") is None  # type: ignore[arg-type]
    assert Since.read(f"gateway.{text}.1.1", "gateway") == Since.read(f"gateway.1.1.{text}", "gateway") == Since()
