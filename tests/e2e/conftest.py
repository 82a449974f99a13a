"""The servers of the end-to-end tests: who needs the same configuration shares one."""

from pathlib import Path

import pytest

from tests.support.e2e import addons as parts
from tests.support.e2e.faults.sitecustomize import HOLD_READS, STEPS_LOG
from tests.support.e2e.servers import CRASHES, FAULTS, OneServer, Server, running


@pytest.fixture(scope="session")
def steps_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file in which `crashes` writes down the steps that it begins."""
    return tmp_path_factory.mktemp("steps") / "steps.log"


@pytest.fixture(scope="session")
def hold(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that makes the lanes of `crashes` wait with reading their inputs while it exists."""
    return tmp_path_factory.mktemp("hold") / "hold"


@pytest.fixture(scope="module")
def crashes(one_server: OneServer, tmp_path_factory: pytest.TempPathFactory, steps_log: Path, hold: Path) -> Server:
    """A server of two backbone replicas that tests kill, with room for a few templates' entries in each."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv(STEPS_LOG, str(steps_log))
        environment.setenv(HOLD_READS, str(hold))
        return one_server.get("crashes", lambda: running(tmp_path_factory.mktemp("crashes"), 1, FAULTS, CRASHES))


@pytest.fixture(scope="module")
def addons(one_server: OneServer, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """A server with adapters and ControlNets of random weights, near and far, whose replicas tests kill."""

    folder = tmp_path_factory.mktemp("addons")
    parts.fill(folder)
    return one_server.get("addons", lambda: parts.server(folder))
