"""Fixtures of adapters in whole images."""

import pytest

from tests.support.lora.families import Family


@pytest.fixture(scope="module", params=["sd3-medium", "sd35-medium", "flux-dev"])
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    """A miniature of each form."""
    return Family(str(request.param), tmp_path_factory.mktemp(str(request.param)))
