"""A gateway over a runner that runs its nodes, so that there is something to look at."""

from collections.abc import AsyncIterator

import httpx2
import pytest

from lego_serve.gateway.app import create_app
from lego_serve.gateway.settings import GatewaySettings
from lego_serve.metrics import Metrics
from tests.support.ui.lively import LivelyRunner

BODY = {"prompt": "a secret", "num_inference_steps": 4, "seed": 3}


@pytest.fixture
def lively() -> LivelyRunner:
    """A quick one."""
    return LivelyRunner(step_s=0.001)


@pytest.fixture
async def looked_at(lively: LivelyRunner, settings: GatewaySettings) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of the gateway over it."""
    app = create_app(lively, lively, settings, Metrics())
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield client
