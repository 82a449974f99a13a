"""A gateway over a runner that answers at once, so that only HTTP is under test."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import httpx2
import pytest
from fastapi import FastAPI

from lego_serve.gateway.app import create_app
from lego_serve.gateway.settings import GatewaySettings, TemplateSettings
from lego_serve.metrics import Metrics
from tests.support.clocks import SteadyLoop
from tests.support.gateway.runner import FakeRunner


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """No timeout of a gateway passes because its tests are not let run."""
    return {"steady": SteadyLoop}


@pytest.fixture
def runner() -> FakeRunner:
    """The runner behind the gateway."""
    return FakeRunner()


@pytest.fixture
def settings(tmp_path: Path) -> GatewaySettings:
    """No keys, small limits."""
    return GatewaySettings(
        "lego-tiny",
        max_pending_jobs=2,
        max_body_bytes=200_000,
        controlnets={"lego-tiny": frozenset({"edges", "depth"})},
        templates=TemplateSettings(tmp_path / "templates", 3, 100_000, {"lego-tiny": 300_000}),
        aliases={"gpt-image-1": "lego-tiny"},
    )


@pytest.fixture
def app(runner: FakeRunner, settings: GatewaySettings) -> FastAPI:
    """The application."""
    return create_app(runner, runner, settings, Metrics())


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    """A client that talks to it without a socket."""
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield client
