"""Browsers: other hosts, other origins, and pages that an operator allows."""

from hashlib import sha256

import httpx2
import pytest

from lego_serve.gateway.app import create_app
from lego_serve.gateway.settings import ApiKey, GatewaySettings
from lego_serve.metrics import Metrics
from tests.support.gateway.runner import FakeRunner

IMAGES = "/v1/images/generations"
APP = "https://app.example"
KEYS = (ApiKey(sha256(b"a-key").hexdigest(), "shop", is_admin=False),)
PREFLIGHT = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,x-stainless-os"}


def client_of(keys: tuple[ApiKey, ...] = (), cors_origins: tuple[str, ...] = (), **options) -> httpx2.AsyncClient:
    """A client of a gateway as ``lego-serve serve`` configures it."""
    hosts = None if keys else frozenset({"lab.example"})
    settings = GatewaySettings("lego-tiny", keys, allowed_hosts=hosts, cors_origins=cors_origins)
    runner = FakeRunner()
    transport = httpx2.ASGITransport(create_app(runner, runner, settings, Metrics()), **options)
    return httpx2.AsyncClient(transport=transport, base_url="http://localhost:8000")


def code_of(answer: httpx2.Response) -> tuple[int, str]:
    """Status and code of a refusal, which is marked as every answer is."""
    assert answer.headers["x-request-id"]
    return answer.status_code, answer.json()["error"]["code"]


@pytest.mark.parametrize("path", ["/v1/models", "/v1/admin/jobs", "/v1/templates", "/metrics"])
async def test_a_server_without_keys_answers_for_its_own_names(path: str) -> None:
    """A name that leads here by a name server's doing is 421."""
    async with client_of() as client:
        assert code_of(await client.get(path, headers={"host": "evil.example"})) == (421, "misdirected_request")
        for host in ("localhost", "127.0.0.1:8000", "[::1]:8000", "lab.example"):
            assert (await client.get(path, headers={"host": host})).status_code in (200, 404)


async def test_pages_of_other_origins_are_refused_where_everybody_is_an_admin() -> None:
    """Forms and fetches alike; command lines and the server's own pages are not."""
    async with client_of() as client:
        for headers in ({"origin": "https://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}):
            sent = await client.post(IMAGES, json={"prompt": "a"}, headers=headers)
            assert code_of(sent) == (403, "cross_site")
        assert code_of(await client.get("/v1/admin/jobs", headers={"sec-fetch-site": "cross-site"})) == (
            403,
            "cross_site",
        )
        for good in ({}, {"origin": "http://localhost:8000", "sec-fetch-site": "same-origin"}):
            assert (await client.post(IMAGES, json={"prompt": "a"}, headers=good)).status_code == 200


async def test_a_server_with_keys_answers_by_any_name_and_asks_for_the_key() -> None:
    """A page has no key to send."""
    async with client_of(KEYS) as client:
        headers = {"host": "api.example", "origin": "https://any.example", "sec-fetch-site": "cross-site"}
        assert (await client.post(IMAGES, json={"prompt": "a"}, headers=headers)).status_code == 401
        headers["authorization"] = "Bearer a-key"
        assert (await client.post(IMAGES, json={"prompt": "a"}, headers=headers)).status_code == 200


@pytest.mark.parametrize("keys", [(), KEYS])
async def test_a_page_of_an_allowed_origin_may_use_the_server(keys: tuple[ApiKey, ...]) -> None:
    """Its preflight needs no key, its requests pass, and it can read answers and errors."""
    async with client_of(keys, (APP,)) as client:
        for path in (IMAGES, "/v1/images/edits", "/v1/models"):
            asked = await client.options(path, headers={"origin": APP, **PREFLIGHT})
            assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (200, APP)
            assert asked.headers["access-control-allow-headers"] == PREFLIGHT["access-control-request-headers"]
        page = {"origin": APP, "sec-fetch-site": "cross-site", "authorization": "Bearer a-key"}
        made = await client.post(IMAGES, json={"prompt": "a"}, headers=page)
        assert (made.status_code, made.headers["access-control-allow-origin"]) == (200, APP)
        assert "x-request-id" in made.headers["access-control-expose-headers"]
        refused = await client.post(IMAGES, json={"prompt": 1}, headers=page)
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (400, APP)


@pytest.mark.parametrize("keys", [(), KEYS])
async def test_a_page_of_another_origin_may_not_even_ask(keys: tuple[ApiKey, ...]) -> None:
    """Its preflight is refused in our own shape, and it can read nothing."""
    async with client_of(keys, (APP,)) as client:
        asked = await client.options(IMAGES, headers={"origin": "https://evil.example", **PREFLIGHT})
        assert code_of(asked) == (403, "cross_site")
        assert "access-control-allow-origin" not in asked.headers
        read = await client.get("/health/live", headers={"origin": "https://evil.example"})
        assert "access-control-allow-origin" not in read.headers


async def test_no_page_is_allowed_by_default() -> None:
    """A preflight is a method that the route does not take."""
    async with client_of() as client:
        asked = await client.options(IMAGES, headers={"origin": APP, **PREFLIGHT})
        assert (asked.status_code, asked.headers["allow"]) == (405, "POST")
        assert "access-control-allow-origin" not in asked.headers


async def test_other_gateways_of_the_server_call_it_by_another_name() -> None:
    """On their Unix socket, where no browser comes."""
    app_of = client_of()._transport.app  # type: ignore[attr-defined]

    async def by_socket(scope, receive, send) -> None:
        await app_of(scope | {"server": ("/tmp/1.sock", None), "client": None}, receive, send)

    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(by_socket), base_url="http://gateway") as client:
        assert (await client.get("/v1/admin/jobs")).status_code == 200
