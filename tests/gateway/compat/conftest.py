"""A gateway that serves the foreign protocols as well."""

from dataclasses import replace

import pytest

from lego_serve.gateway.settings import GatewaySettings


@pytest.fixture
def settings(settings: GatewaySettings) -> GatewaySettings:
    """Those of the other tests, with both protocols."""
    return replace(settings, compat=frozenset({"a1111", "comfyui"}))
