"""Keys as clients of foreign protocols send them."""

import base64
from dataclasses import replace
from hashlib import sha256

import pytest

from lego_serve.gateway.app import create_app
from lego_serve.gateway.settings import ApiKey
from lego_serve.metrics import Metrics
from tests.support.gateway.client import another

KEYS = (ApiKey(sha256(b"user-key").hexdigest(), "shop", is_admin=False),)
URL = "/sdapi/v1/progress"


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize("header", [basic("anyone", "user-key"), basic("", "user-key"), "Bearer user-key"])
async def test_a_key_is_a_bearer_token_or_the_password(runner, settings, header) -> None:
    """Whatever the user's name is."""
    async with another(runner, replace(settings, keys=KEYS)) as client:
        assert (await client.get(URL, headers={"authorization": header})).status_code == 200


@pytest.mark.parametrize(
    "header", ["", "Basic", "Basic !!", "Basic /w==", basic("user-key", ""), "Bearer other", "Digest x"]
)
async def test_anything_else_is_401_with_a_challenge(runner, settings, header) -> None:
    """Clients ask their user for credentials when they see it."""
    async with another(runner, replace(settings, keys=KEYS)) as client:
        answer = await client.get(URL, headers={"authorization": header})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Basic")
    assert set(answer.json()) == {"error", "detail", "body", "errors"}


async def test_without_keys_an_empty_header_is_none(client) -> None:
    """Chat fronts send one where their user gave no credentials."""
    assert (await client.get(URL, headers={"authorization": ""})).status_code == 200


async def test_a_protocol_that_is_not_configured_is_not_served(runner, settings) -> None:
    """Its routes do not exist."""
    async with another(runner, replace(settings, compat=frozenset())) as client:
        for path in (URL, "/prompt", "/queue", "/object_info"):
            assert (await client.get(path)).status_code == 404


async def test_the_document_describes_no_foreign_route(runner, settings) -> None:
    """They are described by their own projects."""
    document = create_app(runner, runner, settings, Metrics()).openapi()
    assert not [path for path in document["paths"] if not path.startswith(("/v1/", "/health", "/metrics"))]
