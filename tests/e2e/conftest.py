"""The servers of the end-to-end tests: who needs the same configuration shares one."""

import pytest

from tests.support.e2e import addons as parts
from tests.support.e2e.servers import OneServer, Server


@pytest.fixture(scope="module")
def addons(one_server: OneServer, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """A server with adapters and ControlNets of random weights, near and far, whose replicas tests kill."""

    folder = tmp_path_factory.mktemp("addons")
    parts.fill(folder)
    return one_server.get("addons", lambda: parts.server(folder))
