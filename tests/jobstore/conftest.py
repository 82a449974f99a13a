"""What tests of the stores of jobs share."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from lego_serve.jobstore import redis_client
from tests.support.jobstore.redis_server import RedisServer, running_redis
from tests.support.jobstore.stage import Stage, open_stage


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Redis that a busy machine holds up is waited for, unless the test says how long."""
    monkeypatch.setattr(redis_client, "LARGE_TIMEOUT_S", 60.0)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """One redis-server."""
    with running_redis() as server:
        yield server


def url_for(request: pytest.FixtureRequest) -> str:
    """Where the Redis is that a test needs; empty for one that needs none."""
    return str(request.getfixturevalue("redis_server").url) if request.param == "redis" else ""


@pytest.fixture(params=["memory", "sqlite", "redis"])
async def stage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stage]:
    """Each store in turn, empty."""
    stage = await open_stage(request.param, tmp_path, url_for(request))
    yield stage
    await stage.store.close()


@pytest.fixture(params=["sqlite", "redis"])
async def texts(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stage]:
    """Each store that keeps records as texts, empty."""
    stage = await open_stage(request.param, tmp_path, url_for(request))
    yield stage
    await stage.store.close()
