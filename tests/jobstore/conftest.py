"""What tests of the stores of jobs share."""

from collections.abc import Iterator

import pytest

from lego_serve.jobstore import redis_client
from tests.support.jobstore.redis_server import RedisServer, running_redis


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Redis that a busy machine holds up is waited for, unless the test says how long."""
    monkeypatch.setattr(redis_client, "LARGE_TIMEOUT_S", 60.0)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """One redis-server."""
    with running_redis() as server:
        yield server
